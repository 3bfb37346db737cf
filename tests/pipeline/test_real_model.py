"""Recipes on a real pretrained model, Gemma 3 270M, in the folder that DEPTHPRUNE_GEMMA names."""

import json
import os
from pathlib import Path

import pytest

from depthprune import load_recipe, run, verify

GEMMA = os.environ.get("DEPTHPRUNE_GEMMA")
LAB = Path(__file__).parents[2] / "../shared/lab"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not GEMMA, reason="DEPTHPRUNE_GEMMA names no model"),
    pytest.mark.skipif(not LAB.exists(), reason="the lab's material is absent"),
]


def recipe(name: str, **overrides):
    return load_recipe(
        name,
        **{
            "model": str(GEMMA),
            "calibration": str(LAB / "text/wikipedia.jsonl"),
            "eval": str(LAB / "data/piqa/test.jsonl"),
            "evaluation.limit": 8,
            "calibration_samples.samples": 4,
            "calibration_samples.length": 32,
            "selection.ratio": 0.22,
            **overrides,
        },
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sleb", {}),
        ("llm-streamline", {"recovery.num_train_epochs": 1}),
        ("gradmap", {"recovery.rho": [1.0]}),
        ("replaceme", {"recovery.alpha": 0.1}),
        (
            "gradpruner",
            {
                "train": str(LAB / "data/piqa/train.jsonl"),
                "importance.steps": 3,
                "importance.per_device_train_batch_size": 1,
                "training.max_steps": 2,
                "training.per_device_train_batch_size": 1,
                "training.gradient_accumulation_steps": 1,
            },
        ),
    ],
)
def test_a_recipe_ends_well_and_its_result_is_whole(tmp_path, name, settings):
    folder = run(recipe(name, **settings), tmp_path / "out")
    verify(folder)
    rows = json.loads((folder / "depthprune" / "eval.json").read_text())["rows"]
    assert rows["base"]["layers"] == 18 and rows["pruned"]["layers"] == 14
    assert all(result["n"] == 8 for row in rows.values() for result in row["results"])
    assert (folder / "depthprune" / "report.html").is_file()
