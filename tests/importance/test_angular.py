import math

import pytest
import torch
from test_block_influence import residual_stream
from tiny import tiny_batch, tiny_model

from depthprune.errors import UserError
from depthprune.importance import score_layers
from depthprune.importance.angular import Angular


def naive_angles(model, batches, length):
    """Sample by sample, at the last real token."""
    layers = len(model.model.layers)
    angles = [[] for _ in range(layers - length + 1)]
    for batch in batches:
        states = residual_stream(model, batch)
        for row, mask in enumerate(batch["attention_mask"].tolist()):
            last = max(position for position, real in enumerate(mask) if real)
            for first, found in enumerate(angles):
                before, after = (states[j][row, last].double().tolist() for j in (first, first + length))
                dot = sum(x * y for x, y in zip(before, after, strict=True))
                found.append(math.acos(dot / (math.hypot(*before) * math.hypot(*after))) / math.pi)
    return torch.tensor([sum(found) / len(found) for found in angles])


@pytest.mark.parametrize("length", [1, 3, 5])
def test_distances_equal_a_loop_over_last_tokens(length):
    model = tiny_model(layers=5)
    batches = [tiny_batch(seed=0), tiny_batch(seed=1, batch_size=3, length=9)]
    distances = Angular().windows(model, batches, [length, 2])[length]
    assert distances.shape == (6 - length,) and distances.dtype == torch.float32
    torch.testing.assert_close(distances, naive_angles(model, batches, length), rtol=1e-4, atol=1e-6)


def test_scores_are_the_windows_of_one_layer():
    model, batches = tiny_model(layers=4), [tiny_batch()]
    torch.testing.assert_close(score_layers(model, batches, "angular"), naive_angles(model, batches, 1))


def test_a_window_that_changes_nothing_is_no_turn():
    model = tiny_model(layers=4)
    with torch.no_grad():
        for layer in model.model.layers[1:3]:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    distances = Angular().windows(model, [tiny_batch()], [2])[2]
    assert distances[1] < 1e-3 < distances[0] and distances[2] > 1e-3


def test_windows_longer_than_the_model_and_empty_batches_are_refused():
    with pytest.raises(UserError, match="windows of 5 layers: this model has 4"):
        Angular().windows(tiny_model(layers=4), [tiny_batch()], [5])
    with pytest.raises(UserError, match="hold no token"):
        Angular()(tiny_model(layers=2), [])
