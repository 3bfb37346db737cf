"""The smallest model that keeps enough."""

import json

import pytest
from runs import LAYERS, recipe
from transformers import AutoModelForCausalLM

from depthprune.compare import read_grid
from depthprune.compare.keep import keep


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
    found = keep(grid, share, tmp_path / "out", **given)
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
    assert keep(grid, share, tmp_path / "out", **given)["kept"] == found["kept"]


def test_tuned_models_are_held_against_the_whole_one_tuned_alike(tmp_path):
    sources = recipe(tmp_path)
    settings = {
        "training.max_steps": 2,
        "training.per_device_train_batch_size": 4,
        "training.gradient_accumulation_steps": 1,
    }
    grid = read_grid(None, recipes=("reverse",), settings=settings)
    found = keep(grid, 0.5, tmp_path / "out", model=sources.model, train=sources.train, eval=sources.eval)
    dense = next(row for row in found["rows"] if row["ratio"] is None)
    (one,) = found["kept"]
    assert one["removed"] == 0 or one["whole"] == dense["values"][0]["mean"]
