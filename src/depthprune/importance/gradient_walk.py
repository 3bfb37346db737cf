"""Gradient norms of a model whose layers are offloaded: each is read once forward and once backward.

What entered each layer is kept, in files past a bound. The backward pass computes a layer again from that,
sends its gradient on to the layer before, and lets go of its weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from depthprune.cost import with_progress
from depthprune.errors import UserError
from depthprune.importance.per_sample import PerSampleNorms, frozen
from depthprune.importance.sample_batches import Sample, pad
from depthprune.model.anatomy import decoder, unwrap
from depthprune.model.head import backward_from
from depthprune.model.offloaded import at_hand
from depthprune.model.skip import skipped_layers
from depthprune.model.states import States
from depthprune.model.walk import Walk, walks


def walked_sums(model: nn.Module, samples: Sequence[Sample]) -> Tensor:
    """The sums over the samples of each layer's gradient norms, float64 [L] on the CPU.

    Samples go through a layer one by one.

    Raises:
        UserError: the layers cannot be called one by one.
    """
    batches = [pad([sample], unwrap(model).device) for sample in samples]
    if not walks(model, batches):
        raise UserError(
            f"gradient-norm: layers of {unwrap(model).config.model_type} hand on more than hidden states, "
            "and gradients through them need all weights in memory: leave device_map out, or choose another "
            "metric, such as block-influence"
        )
    with frozen(model):
        walk = Walk(model, batches, decoder(model))
        entering = _entering(walk)
        _to_the_last_layer(walk, batches)
        return _back_through(walk, entering)


@torch.no_grad()
def _entering(walk: Walk) -> list[States]:
    """What enters each layer, of each sample; afterwards the walk's states are those behind the last one."""
    found = [walk.room.of(()) for _ in walk.layers]
    for i, _, before, _ in walk.through("gradient-norm, forward"):
        found[i].append(before)
    return found


def _to_the_last_layer(walk: Walk, batches: Sequence[dict[str, Tensor]]) -> None:
    """In place of each state behind the last layer, the gradient that comes back to it."""
    for n, batch in enumerate(batches):
        state = _leaf(walk.states[n])
        backward_from(walk.model, walk.output(n, state), batch)
        walk.states[n] = _gradient(state)


def _back_through(walk: Walk, entering: Sequence[States]) -> Tensor:
    """The layers' sums, from what entered them and the gradients of what leaves the last one."""
    sums = torch.zeros(len(walk.layers), dtype=torch.float64)
    gone = skipped_layers(walk.model)
    there = [i for i in reversed(range(len(walk.layers))) if i not in gone]
    for i in with_progress(there, "gradient-norm, backward"):
        layer = walk.layers[i]
        with at_hand(layer), (norms := PerSampleNorms(walk.model, layers=[layer])).attached():
            for n in range(len(entering[i])):
                state = _leaf(entering[i][n])
                norms.begin(*state.shape[:2])
                walk.calls[n][i](layer, state).backward(walk.states[n])
                sums[i] += norms.finish().sum()
                walk.states[n] = _gradient(state)
    return sums


def _leaf(state: Tensor) -> Tensor:
    return state.detach().requires_grad_()


def _gradient(state: Tensor) -> Tensor:
    assert state.grad is not None
    return state.grad
