import json
import random

import pytest
import torch
from runs import LAYERS, recipe, write_jsonl
from transformers import AutoModelForCausalLM

from depthprune import UserError, load_recipe, remove_layers, run, score_layers
from depthprune.importance.block_influence import BlockInfluence
from depthprune.pipeline.inputs import load_inputs


def calibration(tmp_path, words=200):
    """Text of so many words of five letters; 200 are enough for 16 windows of 16 tokens."""
    draw = random.Random(0)
    text = ["".join(draw.choices("abcdefgh", k=5)) for _ in range(words)]
    return str(write_jsonl(tmp_path / "text.jsonl", [{"text": " ".join(text)}]))


def without_training(tmp_path, name="shortgpt-iterative", **changes):
    settings = {
        "train": None,
        "eval": (),
        "calibration": calibration(tmp_path),
        "calibration_samples.samples": 16,
        "calibration_samples.length": 16,
        "selection.ratio": 0.5,
        "training.method": "none",
    }
    return recipe(tmp_path, name, **{**settings, **changes})


def scores(folder):
    return json.loads((folder / "depthprune" / "scores.json").read_text())


def removed(folder):
    return json.loads((folder / "depthprune" / "plan.json").read_text())["removed"]


def test_each_round_scores_the_model_that_the_last_one_left(tmp_path):
    chosen = without_training(tmp_path)
    folder = run(chosen, tmp_path / "out", until="select")
    batches = load_inputs(chosen).batches
    gone = []
    for found in scores(folder)["rounds"]:
        model = remove_layers(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), gone)
        expected = score_layers(model, batches, "block-influence")
        kept = [i for i in range(LAYERS) if i not in gone]
        assert [i for i, score in enumerate(found["scores"]) if score is not None] == kept
        torch.testing.assert_close(torch.tensor([found["scores"][i] for i in kept]), expected)
        assert found["removed"] == [kept[int(expected.argmin())]]
        gone += found["removed"]
    assert len(gone) == LAYERS // 2 and removed(folder) == sorted(gone)
    assert scores(folder)["scores"] == scores(folder)["rounds"][0]["scores"]


def test_a_killed_run_goes_on_after_its_last_finished_round(tmp_path, monkeypatch):
    measure, calls = BlockInfluence.__call__, []

    def killed_in_the_third_round(self, model, batches):
        calls.append(None)
        if len(calls) == 4:  # the first is the second opinion's
            raise KeyboardInterrupt
        return measure(self, model, batches)

    monkeypatch.setattr(BlockInfluence, "__call__", killed_in_the_third_round)
    with pytest.raises(KeyboardInterrupt):
        run(without_training(tmp_path), tmp_path / "out", until="select")
    folder = run(without_training(tmp_path), tmp_path / "out", until="select")
    assert len(calls) == 5  # the third round again, and no other
    assert not list((folder / "depthprune").glob("rounds-*"))
    whole = run(without_training(tmp_path), tmp_path / "whole", until="select")
    assert [r["scores"] for r in scores(folder)["rounds"]] == [r["scores"] for r in scores(whole)["rounds"]]
    assert removed(folder) == removed(whole)


def test_another_ratio_scores_other_rounds_and_one_shot_does_not(tmp_path):
    folder = run(without_training(tmp_path), tmp_path / "out", until="select")
    run(without_training(tmp_path, **{"selection.ratio": 0.34}), folder, until="select")
    assert len(scores(folder)["rounds"]) == len(removed(folder)) == 2
    one_shot = run(without_training(tmp_path, "shortgpt"), tmp_path / "shot", until="select")
    stamp = json.loads((one_shot / "depthprune" / "stages.json").read_text())["score"]
    run(without_training(tmp_path, "shortgpt", **{"selection.ratio": 0.34}), one_shot, until="select")
    assert json.loads((one_shot / "depthprune" / "stages.json").read_text())["score"] == stamp
    assert len(removed(one_shot)) == 2


@pytest.mark.parametrize("metric", ["random", "igia"])
def test_any_metric_serves_in_rounds(tmp_path, metric):
    settings = {"importance.steps": 3} if metric == "igia" else {}
    chosen = recipe(
        tmp_path,
        "random",
        **{"importance.metric": metric, "selection.method": "iterative", "selection.step": 2},
        **{"selection.ratio": 0.5, "training.method": "none", **settings},
    )
    folder = run(chosen, tmp_path / "out", until="prune")
    rounds = scores(folder)["rounds"]
    assert [len(found["removed"]) for found in rounds] == [2, 1]
    assert all(found["scores"][i] is None for found in rounds[1:] for i in rounds[0]["removed"])
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert len(model.model.layers) == LAYERS // 2


def test_a_block_is_chosen_by_its_own_distance(tmp_path):
    settings = {"importance.metric": "angular", "selection.method": "contiguous", "selection.ratio": 0.5}
    folder = run(without_training(tmp_path, "shortgpt", **settings), tmp_path / "out", until="select")
    distances = scores(folder)["windows"]["3"]
    first = min(range(4), key=lambda i: (distances[i], -i))
    assert removed(folder) == [first, first + 1, first + 2]
    assert len(scores(folder)["scores"]) == LAYERS


def test_combinations_that_make_no_sense_are_refused_at_once():
    for changes, reason in (
        ({"importance.metric": "angular"}, "takes layers one by one: choose contiguous"),
        ({"importance.metric": "angular", "selection.method": "iterative"}, "choose contiguous"),
    ):
        with pytest.raises(UserError, match=reason):
            load_recipe("shortgpt", **changes)
    with pytest.raises(UserError, match="gradients of one scoring run"):
        load_recipe("gradpruner", **{"selection.method": "iterative"})


def test_calibration_samples_come_from_the_training_data_where_nothing_else_is_given(tmp_path):
    chosen = recipe(tmp_path, "shortgpt", **{"training.method": "none", "calibration_samples.samples": 8})
    folder = run(chosen, tmp_path / "out", until="score")
    assert scores(folder)["samples"] == 8
    with pytest.raises(UserError, match=r"which importance\.metric=block-influence needs"):
        run(chosen.model_copy(update={"train": None}), tmp_path / "none")
