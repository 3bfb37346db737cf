"""The sums over a layer's weights, in memory and from a checkpoint's files."""

import math

import pytest
import torch
from tiny import tiny_model

from depthprune import UserError, score_layers
from depthprune.importance.magnitude_l1 import MagnitudeL1
from depthprune.importance.magnitude_l2 import MagnitudeL2
from depthprune.model.anatomy import decoder_layers

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
