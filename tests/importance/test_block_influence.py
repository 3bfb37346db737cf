import math

import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune.errors import UserError
from depthprune.importance import score_layers
from depthprune.importance.block_influence import BlockInfluence


def residual_stream(model, batch):
    """h_0 … h_L: what enters each layer, and what enters the final norm."""
    states = []
    modules = [*model.model.layers, model.model.norm]
    handles = [
        module.register_forward_pre_hook(lambda _, args: states.append(args[0].clone())) for module in modules
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    return states


def naive_block_influence(model, batches):
    """Token by token."""
    layers = len(model.model.layers)
    sums, tokens = [0.0] * layers, 0
    for batch in batches:
        states = residual_stream(model, batch)
        for row, position in batch["attention_mask"].nonzero().tolist():
            tokens += 1
            for i in range(layers):
                before, after = (states[j][row, position].double().tolist() for j in (i, i + 1))
                dot = sum(x * y for x, y in zip(before, after, strict=True))
                sums[i] += 1 - dot / (math.hypot(*before) * math.hypot(*after))
    return torch.tensor([total / tokens for total in sums])


def test_scores_equal_a_loop_over_real_tokens():
    model = tiny_model(layers=4)
    batches = [tiny_batch(seed=0), tiny_batch(seed=1, batch_size=3, length=9)]
    scores = BlockInfluence()(model, batches)
    assert scores.dtype == torch.float32 and scores.shape == (4,)
    torch.testing.assert_close(scores, naive_block_influence(model, batches), rtol=1e-4, atol=1e-6)


def test_padding_does_not_count():
    model = tiny_model(layers=4)
    batch = tiny_batch(batch_size=1)
    batch["attention_mask"][:] = 1
    padded = {key: torch.nn.functional.pad(tensor, (0, 5)) for key, tensor in batch.items()}
    torch.testing.assert_close(BlockInfluence()(model, [padded]), BlockInfluence()(model, [batch]))


def test_a_layer_that_changes_nothing_scores_zero():
    model = tiny_model(layers=4)
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight.zero_()
        model.model.layers[2].mlp.down_proj.weight.zero_()
    scores = score_layers(model, [tiny_batch()], "block-influence")
    assert scores[2] == pytest.approx(0, abs=1e-6) and (scores[[0, 1, 3]] > 1e-3).all()


def test_batches_without_tokens_are_refused():
    with pytest.raises(UserError, match="hold no token"):
        BlockInfluence()(tiny_model(layers=2), [])
