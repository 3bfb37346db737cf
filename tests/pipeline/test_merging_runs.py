"""Whole runs of the recipes whose recovery merges or trains layers."""

import json

import pytest
from runs import LAYERS, recipe
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from depthprune import UserError, run, verify
from depthprune.selection import Plan

SMALL = {
    "training.method": "none",
    "selection.ratio": 0.34,
    "calibration_samples.samples": 12,
    "calibration_samples.length": 24,
    "calibration_samples.batch_size": 4,
}
RECIPES = {
    "laco": {"recovery.threshold": 0.0},
    "mka": {"recovery.entropy_neighbors": 6},
    "llm-streamline": {"recovery.num_train_epochs": 12, "recovery.learning_rate": 1e-2},
}


def own(folder, name):
    return json.loads((folder / "depthprune" / name).read_text())


def small(tmp_path, name, **overrides):
    settings = {**SMALL, **RECIPES[name], **overrides}
    if overrides.get("selection.method") == "explicit":
        del settings["selection.ratio"]
    return recipe(tmp_path, name, **settings)


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_leaves_a_plain_smaller_model_and_goes_on_where_it_ended(tmp_path, name):
    folder = run(small(tmp_path, name), tmp_path / "out", until="select")
    chosen = own(folder, "plan.json")
    run(small(tmp_path, name), folder)
    assert own(folder, "plan.json") == chosen and len(chosen["removed"]) == 2
    verify(folder)
    assert len(AutoModelForCausalLM.from_pretrained(folder).model.layers) == LAYERS - 2

    whole = run(small(tmp_path, name), tmp_path / "whole")
    one, other = (load_file(path / "model.safetensors") for path in (folder, whole))
    assert all(weight.equal(other[key]) for key, weight in one.items())
    rows, changed = own(folder, "eval.json")["rows"], own(folder, "recovery.json")["changed_layers"]
    assert list(rows) == (["base", "pruned", "repaired"] if changed else ["base", "pruned"])

    stamps = own(folder, "stages.json")
    run(small(tmp_path, name), folder)
    assert own(folder, "stages.json") == stamps


@pytest.mark.parametrize("name", ["laco", "mka"])
def test_the_plan_says_what_each_layer_is_made_of(tmp_path, name):
    folder = run(small(tmp_path, name), tmp_path / "out", until="prune")
    saved, recovery = own(folder, "plan.json"), own(folder, "recovery.json")
    plan = Plan.from_json(saved)
    assert saved["selection"] == "by-recovery" and plan.to_json() == saved
    assert plan.merged_into.keys() == set(plan.removed)
    assert recovery["changed_layers"] == sorted(plan.combined) == sorted(set(plan.merged_into.values()))
    assert recovery["search"] == saved["search"]
    original = load_file(tmp_path / "model" / "model.safetensors")
    pruned = load_file(folder / "model.safetensors")
    for kept, parts in plan.combined.items():
        key = "model.layers.{}.mlp.down_proj.weight"
        expected = sum(share * original[key.format(layer)] for layer, share in parts.items())
        found = pruned[key.format(plan.kept.index(kept))]
        assert (found - expected).abs().max() < 1e-6


def test_the_report_says_who_chose(tmp_path):
    folder = run(small(tmp_path, "laco"), tmp_path / "out", until="prune")
    card = (folder / "README.md").read_text()
    assert "chosen by collapse" in card and "chosen by none" not in card
    folder = run(small(tmp_path, "llm-streamline"), tmp_path / "streamline", until="prune")
    assert own(folder, "recovery.json")["changed_layers"]
    assert "was trained to stand for" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "name, overrides, message",
    [
        ("laco", {"recovery.threshold": 0.99999}, "no merge keeps the mean cosine"),
        ("laco", {"recovery.lowest_layer": 6}, "recovery.lowest_layer: layer 6 is not in this model"),
        (
            "llm-streamline",
            {"selection.method": "explicit", "selection.remove": "1,3"},
            "remove neighbouring",
        ),
        ("llm-streamline", {"selection.method": "explicit", "selection.remove": "0-1"}, "keep layer 0"),
        ("mka", {"selection.num_removed": 6}, "remove between 1 and 5"),
    ],
)
def test_what_cannot_be_leaves_no_folder(tmp_path, name, overrides, message):
    with pytest.raises(UserError) as refusal:
        run(small(tmp_path, name, **overrides), tmp_path / "out")
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
    assert not (tmp_path / "out").exists()
