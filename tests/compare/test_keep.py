"""The smallest model that keeps enough."""

import json
import sys
from pathlib import Path

import pytest
from runs import LAYERS, recipe
from transformers import AutoModelForCausalLM

from depthprune import UserError
from depthprune.compare import cells_of, compare, read_grid
from depthprune.compare.keep import between, keep, most_runs, search_of
from depthprune.compare.limit import Limit, kept_sentence
from depthprune.model.checkpoint import prune_files

ON_TEXT = {
    "training.method": "none",
    "evaluation.max_length": 32,
    "evaluation.limit": 20,
    "calibration_samples.samples": 8,
    "calibration_samples.length": 16,
}


def text_sources(tmp_path):
    """The whole model is no better than chance on the rows: the loss of text tells sizes apart."""
    sources, text = recipe(tmp_path), tmp_path / "text.txt"
    text.write_text("\n\n".join(f"word {i} and word {i + 1}" for i in range(200)))
    return {"model": sources.model, "calibration": str(text), "eval": (str(text),)}


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 0.97])
def test_it_is_the_last_size_that_holds(tmp_path, share):
    given = text_sources(tmp_path)
    grid = read_grid(None, recipes=("reverse",), settings=ON_TEXT)
    found = keep(grid, Limit("share", share), tmp_path / "out", **given)
    (one,) = found["kept"]
    assert found == json.loads((tmp_path / "out/comparison.json").read_text())
    sizes = {round(row["ratio"] * LAYERS): row["values"][0]["kept"] for row in found["rows"] if row["ratio"]}
    assert len(sizes) <= 3  # of the five that there are
    assert all(kept >= share for removed, kept in sizes.items() if removed <= one["removed"])
    assert sizes.get(one["removed"] + 1, 0.0) < share
    assert "layers gone" in found["sentences"][0] or "no layer gone" in found["sentences"][0]
    if one["removed"]:
        run = next(row["runs"][0] for row in found["rows"] if round(row["ratio"] * LAYERS) == one["removed"])
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out/runs" / run)
        assert model.config.num_hidden_layers == LAYERS - one["removed"]
    assert keep(grid, Limit("share", share), tmp_path / "out", **given)["kept"] == found["kept"]


@pytest.mark.slow
def test_tuned_models_are_held_against_the_whole_one_tuned_alike(tmp_path):
    sources = recipe(tmp_path)
    settings = {
        "training.max_steps": 2,
        "training.per_device_train_batch_size": 4,
        "training.gradient_accumulation_steps": 1,
    }
    grid = read_grid(None, recipes=("reverse",), settings=settings)
    found = keep(
        grid,
        Limit("share", 0.5),
        tmp_path / "out",
        model=sources.model,
        train=sources.train,
        eval=sources.eval,
    )
    dense = next(row for row in found["rows"] if row["ratio"] is None)
    (one,) = found["kept"]
    assert one["removed"] == 0 or one["whole"] == dense["values"][0]["mean"]


@pytest.mark.slow
def test_runs_of_ratios_that_are_there_are_used_and_none_is_made_twice(tmp_path):
    given = text_sources(tmp_path)
    grid = read_grid(None, recipes=("reverse",), ratios=(0.34, 0.67), settings=ON_TEXT)
    before = compare(cells_of(grid, **given), tmp_path / "out")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").rglob("eval.json")}
    found = keep(grid, Limit("share", 0.97), tmp_path / "out", **given)
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    of_ratios = [row for row in found["rows"] if row["ratio"] in (0.34, 0.67)]
    assert of_ratios == before["rows"] and [LAYERS - row["layers"] for row in of_ratios] == [2, 4]
    sizes = {LAYERS - row["layers"]: row["values"][0]["kept"] for row in found["rows"]}
    assert len(found["rows"]) == len(sizes) == 3
    (one,) = found["kept"]
    assert max((removed for removed, kept in sizes.items() if kept >= 0.97), default=0) == one["removed"]
    assert one["removed"] + 1 == LAYERS or sizes[one["removed"] + 1] < 0.97
    # Killed in the run that the search added, it ends the same.
    added = next(row["runs"][0] for row in found["rows"] if row["ratio"] not in (0.34, 0.67))
    own = tmp_path / "out/runs" / added / "depthprune"
    stages = json.loads((own / "stages.json").read_text())
    (own / "stages.json").write_text(json.dumps({k: v for k, v in stages.items() if k != "evaluate"}))
    again = keep(grid, Limit("share", 0.97), tmp_path / "out", **given)
    assert again["kept"] == found["kept"] and again["sentences"] == found["sentences"]


def test_of_a_run_that_failed_nothing_is_concluded(tmp_path):
    given = text_sources(tmp_path)
    settings = {**ON_TEXT, "selection.protect": "0-2"}  # more than three layers cannot go
    grid = read_grid(None, recipes=("reverse",), ratios=(0.67,), settings=settings)
    found = keep(grid, Limit("share", 0.01), tmp_path / "out", **given)
    (one,) = found["kept"]
    assert (one["removed"], one["beyond"]) == (3, "failed")
    assert "with one more a run failed" in found["sentences"][0]
    assert [name.startswith("reverse-0.67-") for name in found["failed"]] == [True]
    grid = read_grid(None, recipes=("reverse", "random"), settings={**ON_TEXT, "selection.protect": "0-5"})
    with pytest.raises(UserError, match="protected"):
        keep(grid, Limit("share", 0.5), tmp_path / "none", **given)


def test_the_runs_are_those_of_the_comparison_and_sublayers_count_as_such(tmp_path):
    one = recipe(tmp_path)
    given = {"model": one.model, "train": one.train, "eval": one.eval}
    recipes = ("reverse", "reverse-partial")
    for baseline in (True, False):
        grid = read_grid(None, recipes=recipes, ratios=(0.25, 0.34), seeds=2, baseline=baseline)
        search = search_of(grid, **given)
        wanted = [cell.name for cell in cells_of(grid, **given)]
        found = {cell.name for cell in [*search.whole, *search.given]}
        assert len(found) == len(search.whole) + len(search.given) == 4 + 8
        assert {*wanted} == (found if baseline else {cell.name for cell in search.given})
    (one, _), grid = search.methods, read_grid(None, recipes=("finercut",), ratios=(0.25, 0.34))
    assert (one.parts, [*one.given], most_runs(one)) == (LAYERS, [2], 4)  # 0.25 of 6 is 2 too; two seeds
    (one,) = search_of(grid, model=given["model"], calibration=given["train"], eval=given["eval"]).methods
    assert (one.parts, [*one.given], most_runs(one)) == (2 * LAYERS, [3, 4], 3)


def test_the_next_size_lies_between_what_holds_and_what_does_not():
    holds, falls = {"holds": True}, {"holds": False}
    assert between({}, 16) == 8
    assert between({4: holds, 6: falls}, 16) == 5
    assert between({4: holds, 6: holds}, 16) == 11
    assert between({4: falls, 6: falls}, 16) == 2
    assert between({4: falls, 6: holds}, 16) == 11  # what holds was measured
    assert between({5: None, 6: falls}, 16) == 3
    assert between({3: None, 6: falls}, 16) == 1  # the middle failed, so that less is asked of
    assert between({4: holds, 5: falls}, 16) is None and between({15: holds}, 16) is None


def test_a_dry_run_says_what_the_search_will_add(tmp_path, capsys, monkeypatch):
    from depthprune.cli import verbs

    given = text_sources(tmp_path)
    call = ["depthprune", "compare", "--recipes", "reverse", "--ratios", "0.34", "--keep", "0.97", "--json"]
    call += ["--output", str(tmp_path / "out"), "--model", given["model"], "--eval", given["eval"][0]]
    call += ["--calibration", given["calibration"], *(f"{key}={value}" for key, value in ON_TEXT.items())]
    monkeypatch.setattr(sys, "argv", [*call, "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        verbs.main()
    planned = json.loads(capsys.readouterr().out)
    (search,) = planned["search"]
    assert not ended.value.code and not (tmp_path / "out").exists()
    assert (len(planned["runs"]), search["method"], search["runs"]) == (1, "reverse", 2)


def test_a_drop_is_held_against_the_whole_model_s_own_value(tmp_path):
    sources = recipe(tmp_path)
    prune_files(Path(sources.model), [2, 3, 4, 5], tmp_path / "two")
    settings = {"training.method": "none", "calibration_samples.samples": 8, "calibration_samples.length": 16}
    grid = read_grid(None, recipes=("reverse",), settings=settings)
    given = {"model": str(tmp_path / "two"), "calibration": sources.train, "eval": sources.eval}
    found = keep(grid, Limit("drop", 0.99), tmp_path / "out", **given)
    (one,), (row,) = found["kept"], found["rows"]
    measured = json.loads((tmp_path / "out/runs" / row["runs"][0] / "depthprune/eval.json").read_text())
    whole, cut = (measured["rows"][name]["results"][0] for name in ("base", "pruned"))
    assert one["measure"] == {"dataset": cut["dataset"], "metric": "accuracy"}
    assert one["drop"] == whole["value"] - cut["value"] and one["removed"] == 1
    assert found["sentences"][0].endswith("1 of 2 layers gone (50%), 0.000 below the whole model's.")


def test_a_drop_of_perplexity_is_refused_before_anything_is_written(tmp_path):
    sources = recipe(tmp_path)
    (tmp_path / "text.txt").write_text("\n\n".join(f"word {i} and word {i + 1}" for i in range(50)))
    given = {"model": sources.model, "train": sources.train, "eval": (str(tmp_path / "text.txt"),)}
    with pytest.raises(UserError, match="--keep"):
        keep(read_grid(None, recipes=("reverse",)), Limit("drop", 0.01), tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("limit", "value", "whole", "metric", "holds", "sure"),
    [
        (Limit("drop", 0.01), 0.74, 0.75, "accuracy", True, False),  # in floats the drop is above 0.01
        (Limit("drop", 0.01), 0.7399, 0.75, "accuracy", False, False),
        (Limit("drop", 0.0), 0.9, 0.75, "accuracy", True, True),
        (Limit("drop", 0.01), 0.6, 0.75, "accuracy", False, True),
        (Limit("share", 0.98), 0.735, 0.75, "accuracy", True, False),
        (Limit("share", 0.5), 20.0, 10.0, "perplexity", True, False),
        (Limit("share", 0.5), 30.0, 10.0, "perplexity", False, True),
    ],
)
def test_the_verdict_of_a_limit(limit, value, whole, metric, holds, sure):
    found = limit.verdict((value, 0.01), (whole, 0.02), metric)
    assert (found["holds"], found["sure"]) == (holds, sure)


def test_the_sentence_of_a_drop():
    one = {"method": "reverse", "by": "drop", "asked": 0.01, "removed": 3, "num_layers": 12, "sure": False}
    one |= {"measure": {"dataset": "news", "metric": "accuracy"}, "value": 0.744, "drop": 0.006}
    assert kept_sentence(one) == (
        "reverse has accuracy 0.744 on news with 3 of 12 layers gone (25%), 0.006 below the whole model's, "
        "and is more than 0.01 below it with more; that is within the noise of the limit."
    )
    assert "0.006 below the whole model's; with one more a run failed; that" in kept_sentence(
        {**one, "beyond": "failed"}
    )
    assert "3 of 24 attentions and MLPs gone" in kept_sentence(
        {**one, "num_layers": 24, "counts": "attentions and MLPs"}
    )
    none = {"method": "reverse", "by": "drop", "asked": 0.01, "removed": 0, "num_layers": 12}
    assert "loses no more than 0.01 of the whole model's quality with no layer gone" in kept_sentence(none)
    assert kept_sentence({**none, "beyond": "failed"}).startswith("How small reverse may be is not known")
