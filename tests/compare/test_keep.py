"""The smallest model that keeps enough."""

import json
from pathlib import Path

import pytest
from runs import LAYERS, recipe
from transformers import AutoModelForCausalLM

from depthprune import UserError
from depthprune.compare import read_grid
from depthprune.compare.keep import keep
from depthprune.compare.limit import Limit, kept_sentence
from depthprune.model.checkpoint import prune_files


@pytest.mark.parametrize("share", [0.5, 0.97])
def test_it_is_the_last_size_that_holds(tmp_path, share):
    sources = recipe(tmp_path)
    # The whole model is no better than chance on the rows: the loss of text tells sizes apart.
    (tmp_path / "text.txt").write_text("\n\n".join(f"word {i} and word {i + 1}" for i in range(200)))
    settings = {"training.method": "none", "evaluation.max_length": 32, "evaluation.limit": 20}
    settings |= {"calibration_samples.samples": 8, "calibration_samples.length": 16}
    grid = read_grid(None, recipes=("reverse",), settings=settings)
    given = {
        "model": sources.model,
        "calibration": str(tmp_path / "text.txt"),
        "eval": (str(tmp_path / "text.txt"),),
    }
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
    assert "the whole model's, and is more than 0.99 below it with more" in found["sentences"][0]


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
    none = {"method": "reverse", "by": "drop", "asked": 0.01, "removed": 0, "num_layers": 12}
    assert "loses no more than 0.01 of the whole model's quality with no layer gone" in kept_sentence(none)
