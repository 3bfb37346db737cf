import math

import pytest
import torch
from test_block_influence import residual_stream
from tiny import tiny_batch, tiny_model

from depthprune.errors import UserError
from depthprune.importance import score_layers
from depthprune.importance.block_influence import BlockInfluence
from depthprune.importance.cosine_window import CosineWindow

BATCHES = [tiny_batch(seed=0), tiny_batch(seed=1, batch_size=3, length=9)]


def naive_distances(model, batches, length):
    """Token by token, padding left out."""
    layers = len(model.model.layers)
    found = [[] for _ in range(layers - length + 1)]
    for batch in batches:
        states = residual_stream(model, batch)
        for row, position in batch["attention_mask"].nonzero().tolist():
            for first, distances in enumerate(found):
                before, after = (states[j][row, position].double().tolist() for j in (first, first + length))
                dot = sum(x * y for x, y in zip(before, after, strict=True))
                distances.append(1 - dot / (math.hypot(*before) * math.hypot(*after)))
    return torch.tensor([sum(distances) / len(distances) for distances in found])


@pytest.mark.parametrize("length", [1, 3, 5])
def test_distances_equal_a_loop_over_real_tokens(length):
    model = tiny_model(layers=5)
    distances = CosineWindow().windows(model, BATCHES, [length, 2])[length]
    assert distances.shape == (6 - length,) and distances.dtype == torch.float32
    torch.testing.assert_close(distances, naive_distances(model, BATCHES, length), rtol=1e-4, atol=1e-6)


def test_windows_of_one_layer_are_block_influence():
    model = tiny_model(layers=4)
    torch.testing.assert_close(
        score_layers(model, BATCHES, "cosine-window"), BlockInfluence()(model, BATCHES)
    )


def test_cosines_of_a_bfloat16_model_are_taken_in_float32():
    model = tiny_model(layers=4).bfloat16()
    distances = CosineWindow().windows(model, BATCHES, [2])[2]
    torch.testing.assert_close(distances, naive_distances(model, BATCHES, 2), rtol=1e-3, atol=1e-5)


def test_a_damaged_layer_is_named():
    model = tiny_model(layers=4)
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight[0, 0] = math.nan
    for metric in ("cosine-window", "block-influence", "angular"):
        with pytest.raises(UserError, match=f"{metric}: layer 2 is damaged, model.layers.2.mlp.down_proj"):
            score_layers(model, BATCHES, metric)
