"""The sums over a layer's weights, in memory and from a checkpoint's files."""

import json
import math

import pytest
import torch
from runs import model_folder
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from depthprune import UserError, load_recipe, run, score_layers
from depthprune.importance.magnitude_l1 import MagnitudeL1
from depthprune.importance.magnitude_l2 import MagnitudeL2
from depthprune.model.anatomy import decoder_layers
from depthprune.model.loading import load_model

POWERS = {"magnitude-l1": 1, "magnitude-l2": 2}


def naive_sums(model, power):
    """Element by element in Python's own floats, over every parameter of a layer."""
    return torch.tensor(
        [
            math.fsum(abs(x) ** power for weight in layer.parameters() for x in weight.flatten().tolist())
            for layer in decoder_layers(model)
        ]
    )


@pytest.mark.parametrize("metric", POWERS)
@pytest.mark.parametrize("family", ["llama", "opt", "gpt2", "gpt_oss"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_equal_a_loop_over_all_parameters(family, metric, dtype):
    model = tiny_model(family, layers=3).to(dtype)
    scores = score_layers(model, [], metric)
    assert scores.dtype == torch.float32 and not scores.requires_grad
    torch.testing.assert_close(scores, naive_sums(model, POWERS[metric]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("metric", [MagnitudeL1(), MagnitudeL2()])
def test_blocks_of_a_weight_add_up(monkeypatch, metric):
    model = tiny_model(layers=2)
    whole = metric(model)
    monkeypatch.setattr("depthprune.importance.magnitude._BLOCK_ELEMENTS", 100)
    torch.testing.assert_close(metric(model), whole, rtol=1e-6, atol=0)


def test_many_small_bfloat16_weights_are_not_lost():
    # A bfloat16 or float16 sum would stop growing long before.
    weights = [(0, torch.full((3000, 3000), 2**-10, dtype=torch.bfloat16)), (1, torch.ones(3))]
    assert MagnitudeL1().over(weights, 2).tolist() == [9e6 / 2**10, 3.0]
    assert MagnitudeL2().over(weights, 2).tolist() == [9e6 / 2**20, 3.0]


def test_norms_and_biases_count():
    model = tiny_model("opt", layers=2)
    before = MagnitudeL1()(model)
    with torch.no_grad():
        model.model.decoder.layers[1].final_layer_norm.weight += 1000
        model.model.decoder.layers[0].fc1.bias += 1000
    gained = MagnitudeL1()(model) - before
    torch.testing.assert_close(gained, torch.tensor([48e3, 32e3]), rtol=1e-2, atol=0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_damaged_layer_is_named(value):
    model = tiny_model(layers=3)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[2, 3] = value
    with pytest.raises(UserError, match="magnitude-l2: layer 1 holds a weight that is not finite"):
        MagnitudeL2()(model)


@pytest.mark.parametrize("method", ["one-shot", "iterative"])
@pytest.mark.parametrize("metric", POWERS)
def test_a_run_scores_the_files_as_they_are(tmp_path, metric, method):
    path = model_folder(tmp_path / "model")
    expected = naive_sums(load_model(path), POWERS[metric])
    overrides = {"importance.metric": metric, "selection.method": method, "training.method": "none"}
    chosen = load_recipe("reverse", model=str(path), **overrides, **{"selection.ratio": 0.5})
    folder = run(chosen, tmp_path / "out", until="select") / "depthprune"
    scores = torch.tensor(json.loads((folder / "scores.json").read_text())["scores"])
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=0)
    removed = json.loads((folder / "plan.json").read_text())["removed"]
    assert removed == sorted(expected.argsort()[:3].tolist())


def test_weights_in_another_form_are_loaded(tmp_path):
    path = model_folder(tmp_path / "model")
    expected = naive_sums(load_model(path), 1)
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.2.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # as old checkpoints have it
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    overrides = {"importance.metric": "magnitude-l1", "training.method": "none"}
    folder = run(load_recipe("reverse", model=str(path), **overrides), tmp_path / "out", until="score")
    scores = torch.tensor(json.loads((folder / "depthprune/scores.json").read_text())["scores"])
    torch.testing.assert_close(scores, expected, rtol=1e-6, atol=0)
