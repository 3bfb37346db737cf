"""Runs beside each other: what one has done serves the next, and changes nothing of what it finds."""

import json
import logging
import shutil

import pytest
from runs import recipe
from safetensors.torch import load_file

from depthprune import run
from depthprune.pipeline import borrow

SMALL = {
    "training.method": "none",
    "calibration_samples.samples": 16,
    "calibration_samples.length": 24,
    "calibration_samples.batch_size": 8,
    "selection.ratio": None,
}


def own(folder, name):
    return json.loads((folder / "depthprune" / name).read_text())


def without_cost(found):
    if isinstance(found, dict):
        costs = ("seconds", "peak_bytes", "from")
        return {key: without_cost(value) for key, value in found.items() if key not in costs}
    return [without_cost(one) for one in found] if isinstance(found, list) else found


def weights(folder):
    return load_file(folder / "model.safetensors")


def same_weights(one, other):
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(first[key].equal(second[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "begun"), [("sleb", "rounds-*.json"), ("flatten", "steps-*.json"), ("gradmap", "rounds-*.json")]
)
@pytest.mark.parametrize("amounts", [(1, 3), pytest.param((3, 1), marks=pytest.mark.slow)])
def test_a_greedy_search_begins_with_that_of_another_amount(tmp_path, caplog, name, begun, amounts):
    caplog.set_level("INFO", "depthprune")
    first, second = (recipe(tmp_path, name, **{**SMALL, "selection.num_removed": n}) for n in amounts)
    lender = run(first, tmp_path / "first", beside=())
    caplog.clear()
    borrower = run(second, tmp_path / "second", beside=(lender,))
    steps = [line for line in caplog.messages if " removes " in line or " step " in line]
    taken = [line for line in caplog.messages if "are taken from another run" in line]
    assert len(taken) == 1 and f"the first {min(amounts)} steps" in taken[0]
    searched = [line for line in steps if "round" in line or "step" in line]
    assert len(searched) == max(0, amounts[1] - amounts[0])
    alone = run(second, tmp_path / "alone")
    assert own(borrower, "plan.json") == own(alone, "plan.json")
    assert without_cost(own(borrower, "scores.json")) == without_cost(own(alone, "scores.json"))
    assert same_weights(borrower, alone)
    assert not list((alone / "depthprune").glob(begun))


@pytest.mark.slow
def test_scores_gradients_and_rows_serve_another_ratio(tmp_path, caplog):
    caplog.set_level("INFO", "depthprune")
    first, second = (recipe(tmp_path, **{"selection.ratio": ratio}) for ratio in (0.34, 0.5))
    lender = run(first, tmp_path / "first", beside=())
    assert (lender / "depthprune" / "gradients").is_dir()
    caplog.clear()
    borrower = run(second, tmp_path / "second", beside=(lender,))
    assert "score    taken from first" in caplog.messages
    assert own(borrower, "stages.json")["score"]["from"] == "first"
    alone = run(second, tmp_path / "alone")
    assert own(borrower, "scores.json")["scores"] == own(alone, "scores.json")["scores"]
    assert same_weights(borrower, alone)
    rows, naive = own(borrower, "eval.json")["rows"], own(alone, "eval.json")["rows"]
    assert rows["base"]["from"] == "first" and "from" not in rows["pruned"]
    assert without_cost(rows) == without_cost(naive)
    assert own(borrower, "per-row.json") == own(alone, "per-row.json")


@pytest.mark.slow
def test_what_is_of_other_data_or_settings_is_not_taken(tmp_path):
    settings = {**SMALL, "selection.num_removed": 2}
    lender = run(recipe(tmp_path, "sleb", **settings), tmp_path / "first", beside=())
    for changes in ({"seed": 7}, {"calibration_samples.samples": 12}, {"evaluation.limit": 8}):
        borrower = run(
            recipe(tmp_path, "sleb", **{**settings, **changes}), tmp_path / str(changes), beside=(lender,)
        )
        stages, rows = own(borrower, "stages.json"), own(borrower, "eval.json")["rows"]
        assert ("from" in stages["score"]) == ("evaluation.limit" in changes)
        assert ("from" in rows["base"]) == ("evaluation.limit" not in changes)


@pytest.mark.slow
def test_a_lender_that_is_torn_or_no_run_is_passed_over(tmp_path):
    settings = {**SMALL, "selection.num_removed": 2}
    lender = run(recipe(tmp_path, "sleb", **settings), tmp_path / "first", beside=())
    for name in ("scores.json", "eval.json", "recipe.yaml"):
        (lender / "depthprune" / name).write_text("{")
    (tmp_path / "empty").mkdir()
    beside = (lender, tmp_path / "empty", tmp_path / "none")
    borrower = run(recipe(tmp_path, "sleb", **settings), tmp_path / "second", beside=beside)
    assert "from" not in own(borrower, "stages.json")["score"]
    assert "from" not in own(borrower, "eval.json")["rows"]["base"]


@pytest.mark.slow
def test_a_teacher_and_its_answers_serve_another_size(tmp_path, caplog):
    caplog.set_level("INFO", "depthprune")
    settings = {"training.loss": "distill", "training.data": "self", "training.self_data.max_new_tokens": 4}
    first, second = (recipe(tmp_path, "reverse", **{**settings, "selection.ratio": r}) for r in (0.34, 0.5))
    lender = run(first, tmp_path / "first", until="train", beside=())
    borrower = run(second, tmp_path / "second", until="train", beside=(lender,))
    assert "answers  taken from first" in caplog.messages
    theirs, ours = (
        {path.name: path.stat().st_ino for path in (folder / "depthprune/teacher").rglob("*.safetensors")}
        for folder in (lender, borrower)
    )
    assert theirs and theirs == ours
    assert same_weights(borrower, run(second, tmp_path / "alone", until="train"))


def test_what_a_run_is_still_writing_is_not_taken(tmp_path):
    lent, taken = tmp_path / "lent", tmp_path / "taken"
    lent.mkdir()
    (lent / "rows-0.safetensors").write_bytes(b"whole")
    (lent / "rows-128.partial").write_bytes(b"ha")
    borrow._link_tree(lent, taken)
    (lent / "rows-128.partial").write_bytes(b"half")
    assert {path.name: path.read_bytes() for path in taken.iterdir()} == {"rows-0.safetensors": b"whole"}


class Stamps(logging.Handler):
    """What stages.json says whenever a stage begins."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.seen = folder, {}

    def emit(self, record):
        if record.getMessage().endswith(" …"):
            self.seen[record.getMessage().split()[0]] = own(self.folder, "stages.json")


def test_scores_whose_gradients_are_recorded_again_are_not_lent_meanwhile(tmp_path, caplog):
    caplog.set_level("INFO", "depthprune")
    settings = {"training.method": "lora", "training.max_steps": 2, "selection.ratio": 0.34}
    folder = run(recipe(tmp_path, **settings), tmp_path / "out", until="prune")
    shutil.rmtree(folder / "depthprune/pruned")
    heard = Stamps(folder)
    logging.getLogger("depthprune").addHandler(heard)
    run(recipe(tmp_path, **settings), folder, until="prune")
    logging.getLogger("depthprune").removeHandler(heard)
    assert "score" not in heard.seen["score"] and "score" in heard.seen["prune"]
