"""Whole runs in which two layers become one."""

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
    "calibration_samples.samples": 24,
    "calibration_samples.length": 24,
    "calibration_samples.batch_size": 6,
    "recovery.rho": [0.1],
}


def own(folder, name):
    return json.loads((folder / "depthprune" / name).read_text())


def small(tmp_path, **overrides):
    return recipe(tmp_path, overrides.pop("name", "flatten"), **{**SMALL, **overrides})


def test_a_run_leaves_a_plain_smaller_model_and_goes_on_where_it_ended(tmp_path):
    folder = run(small(tmp_path), tmp_path / "out", until="select")
    plan = Plan.from_json(own(folder, "plan.json"))
    assert plan.to_json() == own(folder, "plan.json") and len(plan.removed) == len(plan.search) == 2
    assert plan.merged_into.keys() == set(plan.removed) and set(plan.merged_into.values()) <= set(plan.kept)
    run(small(tmp_path), folder)
    verify(folder)
    assert len(AutoModelForCausalLM.from_pretrained(folder).model.layers) == LAYERS - 2

    whole = run(small(tmp_path), tmp_path / "whole")
    one, other = (load_file(path / "model.safetensors") for path in (folder, whole))
    assert all(weight.equal(other[key]) for key, weight in one.items())


def test_held_out_it_is_never_worse_than_the_bare_cut(tmp_path):
    folder = run(small(tmp_path), tmp_path / "out", until="prune")
    steps = own(folder, "recovery.json")["steps"]
    assert steps == own(folder, "plan.json")["search"]
    assert [step["loss"] for step in steps][-1] == own(folder, "recovery.json")["held_out_loss"]["after"]
    for step in steps:
        assert step["how"] in ("flatten", "refit", "cut")
        assert step["kept"] in (step["first"], step["second"])


@pytest.mark.parametrize("name", ["reverse", "shortgpt"])
def test_it_repairs_what_another_method_chose(tmp_path, name):
    settings = {key: value for key, value in SMALL.items() if key != "recovery.rho"}
    bare = run(recipe(tmp_path, name, **settings), tmp_path / "bare", until="select")
    folder = run(
        small(tmp_path, name=name, **{"recovery.method": "flatten"}), tmp_path / "out", until="prune"
    )
    assert own(folder, "plan.json")["removed"] == own(bare, "plan.json")["removed"]
    assert {
        step["first"] + step["second"] - step["kept"] for step in own(folder, "recovery.json")["steps"]
    } == set(own(folder, "plan.json")["removed"])
    verify(folder)
    assert "chosen by" in (folder / "README.md").read_text()


def test_a_layer_trained_on_the_pair_is_a_candidate_and_made_again_alike(tmp_path):
    settings = {"recovery.refine": "local", "selection.num_removed": 1, "selection.ratio": None}
    folder = run(small(tmp_path, **settings), tmp_path / "out", until="prune")
    (step,) = own(folder, "plan.json")["search"]
    plain = run(small(tmp_path, **{**settings, "recovery.refine": "none"}), tmp_path / "plain", until="prune")
    assert step["loss"] <= own(plain, "plan.json")["search"][0]["loss"]
    assert own(folder, "recovery.json")["steps"] == [step]


def test_protected_layers_stay(tmp_path):
    folder = run(small(tmp_path, **{"selection.protect": [0, 1, 2, 3]}), tmp_path / "out", until="select")
    assert own(folder, "plan.json")["removed"] == [4, 5]


def test_one_calibration_sample_is_too_few(tmp_path):
    with pytest.raises(UserError, match="at least 2 calibration samples"):
        run(small(tmp_path, **{"calibration_samples.samples": 1}), tmp_path / "out")
    assert not (tmp_path / "out").exists()
