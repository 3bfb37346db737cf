"""Whole runs without training: GradMAP and ReplaceMe, and what becomes of input that they cannot use."""

import json

import pytest
import torch
from runs import LAYERS, model_folder, rows, write_jsonl
from safetensors.torch import load_file, save_file
from test_score import calibration, without_training
from tiny import tiny_model
from transformers import AutoModelForCausalLM

from depthprune import UserError, load_recipe, run, verify


def own(folder, name):
    return json.loads((folder / "depthprune" / name).read_text())


def measured(tmp_path, name, **changes):
    test = write_jsonl(tmp_path / "test-text.jsonl", [{"text": "abc hgf cab dag bed fee cafe bad dab " * 8}])
    return without_training(tmp_path, name, **{"eval": (str(test),), **changes})


@pytest.mark.parametrize("name", ["gradmap", "replaceme"])
def test_a_run_without_training_data_leaves_a_repaired_model(tmp_path, name):
    folder = run(measured(tmp_path, name), tmp_path / "out")
    verify(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert len(model.model.layers) == LAYERS // 2
    recovery, plan = own(folder, "recovery.json"), own(folder, "plan.json")
    drift = recovery["drift"]
    assert drift["layers"] == plan["kept"] and len(drift["before"]) == len(drift["after"]) == LAYERS // 2
    assert recovery["held_out_loss"]["after"] <= recovery["held_out_loss"]["before"]
    changed = recovery["changed_layers"]
    rows = own(folder, "eval.json")["rows"]
    assert list(rows) == (["base", "pruned", "repaired"] if changed else ["base", "pruned"])

    original = load_file(tmp_path / "model" / "model.safetensors")
    for new, old in enumerate(plan["kept"]):
        prefix, path = f"model.layers.{old}.", f"model.layers.{new}."
        for key, weight in original.items():
            if key.startswith(prefix):
                repaired = old in changed and key.endswith("down_proj.weight")
                saved = model.state_dict()[path + key.removeprefix(prefix)]
                assert torch.equal(saved, weight) != repaired, key


@pytest.mark.parametrize("metric", ["block-influence", "gradient-norm", "random"])
def test_either_recovery_goes_with_any_metric(tmp_path, metric):
    for method, settings in (("projection", {}), ("linear", {"recovery.blocks": "each"})):
        changes = {"importance.metric": metric, "selection.protect": [0], "selection.ratio": 0.34}
        chosen = without_training(tmp_path, **changes, **{"recovery.method": method}, **settings)
        folder = run(chosen, tmp_path / method)
        assert own(folder, "recovery.json")["method"] == method
        assert "gaps" in str(chosen.recovery) or method == "linear"


def refused(tmp_path, message, name, **changes):
    with pytest.raises(UserError) as refusal:
        run(without_training(tmp_path, name, **changes), tmp_path / "refused")
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
    assert not (tmp_path / "refused").exists()


def with_norm_last(folder):
    """Layers whose MLP and residual stream go through one norm together, in which no map can be folded."""
    changes = {"do_layer_norm_before": False, "vocab_size": 600}
    tiny_model("opt", LAYERS, **changes).save_pretrained(folder)


@pytest.mark.parametrize("name", ["gradmap", "replaceme"])
def test_a_model_with_a_norm_after_the_mlp_is_repaired_and_verified(tmp_path, name):
    model_folder(tmp_path / "model")
    tiny_model("gemma2", LAYERS, vocab_size=600).save_pretrained(tmp_path / "model")
    folder = run(without_training(tmp_path, name), tmp_path / "out")
    verify(folder)
    report = own(folder, "recovery.json")
    assert report["repairs"] and all(len(row["candidates"]) > 1 for row in report["repairs"])
    assert report["held_out_loss"]["after"] <= report["held_out_loss"]["before"]


def test_bad_input_is_refused_in_one_line_and_leaves_nothing(tmp_path):
    refused(tmp_path, "500 calibration samples asked for", "gradmap", **{"calibration_samples.samples": 500})
    with pytest.raises(UserError, match="the removed layers 2, 4 are not consecutive"):
        gaps = {"selection.method": "explicit", "selection.remove": "2,4", "recovery.method": "linear"}
        model, text = str(tmp_path / "model"), calibration(tmp_path)
        run(load_recipe("shortgpt", model=model, calibration=text, **gaps), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    few = {"calibration_samples.samples": 2, "calibration_samples.length": 8}
    refused(tmp_path, "singular", "replaceme", **few)


def test_weights_that_are_not_finite_name_their_layer(tmp_path):
    model_folder(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    weights["model.layers.3.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    write_jsonl(tmp_path / "train.jsonl", rows(8))
    refused(tmp_path, "layer 3", "gradmap")


def test_a_norm_after_the_residual_sum_is_refused_though_no_model_was_scored(tmp_path):
    model_folder(tmp_path / "model")
    with_norm_last(tmp_path / "model")
    without_model = {"importance.metric": "reverse", "recovery.method": "projection"}
    refused(tmp_path, "nor through a norm of its own", "shortgpt", **without_model)


def test_a_norm_after_the_residual_sum_is_refused_before_anything_is_scored(tmp_path):
    model_folder(tmp_path / "model")
    with_norm_last(tmp_path / "model")
    refused(tmp_path, "nor through a norm of its own", "gradmap")
