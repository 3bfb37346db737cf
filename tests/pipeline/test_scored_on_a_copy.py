"""A run that scores a rounded copy of a model, and cuts and repairs the full one."""

import json

import pytest
from runs import model_folder, recipe
from safetensors.torch import load_file

from depthprune.errors import UserError
from depthprune.model.loading import load_model
from depthprune.pipeline.inputs import load_inputs
from depthprune.pipeline.run import run

SETTINGS = {
    "training.method": "none",
    "importance.metric": "block-influence",
    "recovery.method": "projection",
    "calibration_samples.samples": 8,
    "arithmetic": "float32",
    "eval": (),
}


def plan_and_tensors(root):
    found = json.loads((root / "depthprune/scores.json").read_text())["scores"]
    return found, load_file(root / "model.safetensors")


def test_scores_are_the_copys_and_weights_the_full_models(tmp_path):
    full = model_folder(tmp_path / "full")
    copy = load_model(model_folder(tmp_path / "copy"))
    for parameter in copy.parameters():  # as if it had been quantised
        parameter.data = (parameter.data * 16).round() / 16
    copy.save_pretrained(tmp_path / "copy")
    settings = recipe(tmp_path, "reverse", **SETTINGS, model=str(tmp_path / "copy"), weights=str(full))
    scores, tensors = plan_and_tensors(run(settings, tmp_path / "out", "prune"))
    alone = recipe(tmp_path, "reverse", **SETTINGS, model=str(tmp_path / "copy"))
    assert scores == plan_and_tensors(run(alone, tmp_path / "copied", "prune"))[0]
    plan = json.loads((tmp_path / "out/depthprune/plan.json").read_text())
    explicit = recipe(
        tmp_path,
        "reverse",
        **{
            **SETTINGS,
            "selection.method": "explicit",
            "selection.remove": plan["removed"],
            "importance.metric": "none",
        },
        model=str(full),
    )
    _, wanted = plan_and_tensors(run(explicit, tmp_path / "explicit", "prune"))
    assert tensors.keys() == wanted.keys()
    assert all(tensors[name].equal(tensor) for name, tensor in wanted.items())


def test_another_model_is_refused(tmp_path):
    full = model_folder(tmp_path / "full")
    config = json.loads((full / "config.json").read_text())
    settings = recipe(tmp_path, "reverse", **SETTINGS, weights=str(full))
    other = tmp_path / "model" / "config.json"
    other.write_text(json.dumps({**config, "num_attention_heads": 8}))
    with pytest.raises(UserError, match=r"num_attention_heads 8 and .*full has 4: --weights takes"):
        load_inputs(settings)
