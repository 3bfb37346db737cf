"""Iterative selection by the loss is SLEB's greedy search."""

import json

import pytest
import torch
from runs import recipe
from tiny import tiny_model

from depthprune import run
from depthprune.data.batches import IGNORED
from depthprune.importance.loss import Loss
from depthprune.model.loading import load_model
from depthprune.model.skip import skipped
from depthprune.model.surgery import remove_layers
from depthprune.pipeline.inputs import load_inputs


def exhaustive(load, batches, count, protect=()):
    """Greedy search by surgery on a fresh model for each candidate of each round."""
    removed, losses = [], []
    for _ in range(count):
        found = {}
        for i in range(6):
            if i in removed or i in protect:
                continue
            model = remove_layers(load(), [*removed, i])
            total = tokens = 0
            for batch in batches:
                count_ = int((batch["labels"][:, 1:] != IGNORED).sum())
                with torch.no_grad():
                    total += count_ * float(model(**batch, use_cache=False).loss)
                tokens += count_
            found[i] = total / tokens
        best = min(found, key=lambda i: (found[i], -i))
        removed.append(best)
        losses.append(found)
    return removed, losses


def labelled(seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 128, (3, 11), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, -3:] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.masked_fill(mask == 0, IGNORED),
    }


@pytest.mark.parametrize("family", ["llama", "opt"])
def test_rounds_of_scores_pick_what_the_exhaustive_search_picks(family):
    batches, removed = [labelled(0), labelled(1)], []
    expected, losses = exhaustive(lambda: tiny_model(family), batches, 4)
    model = tiny_model(family)
    for found in losses:
        with skipped(model, removed):
            scores = Loss()(model, batches)
        for layer, loss in found.items():
            assert float(scores[layer]) == pytest.approx(loss, rel=1e-6)
        removed.append(min(found, key=lambda i: (float(scores[i]), -i)))
    assert removed == expected


def test_the_sleb_recipe_removes_what_the_exhaustive_search_removes(tmp_path):
    settings = {
        "training.method": "none",
        "selection.ratio": 0.5,
        "calibration_samples.samples": 16,
        "calibration_samples.batch_size": 4,
    }
    chosen = recipe(tmp_path, "sleb", **settings)
    batches = load_inputs(chosen).batches
    expected, _ = exhaustive(lambda: load_model(tmp_path / "model"), batches, 3, protect=(0, 5))
    folder = run(chosen, tmp_path / "out", until="select")
    rounds = json.loads((folder / "depthprune/scores.json").read_text())["rounds"]
    assert [layer for found in rounds for layer in found["removed"]] == expected
    assert json.loads((folder / "depthprune/plan.json").read_text())["removed"] == sorted(expected)
