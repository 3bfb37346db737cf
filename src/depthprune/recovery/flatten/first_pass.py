"""What the layers of a pair, as they are, tell of it: heads and their target, strengths, lengths."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from depthprune.recovery.flatten.fit import Grams
from depthprune.recovery.flatten.pair import Pair, written
from depthprune.recovery.flatten.stream import PairStates, Watched


@dataclass(frozen=True)
class FirstPass:
    """Sums over the tokens to fit on, the first layer's units before the second's.

    Attributes:
        grams: heads of both on the input of a, and what both attentions gave in turn; empty where a norm
            comes after the attention.
        heads, channels: Σ w·z² of what enters the last linears, [2n] and [2F], z over the length of what they
            write where a norm follows; the heads' on the input of a, the channels' where they are.
        lengths: of attention and of MLP: the usual root mean square of what either layer writes.
    """

    grams: Grams
    heads: Tensor
    channels: Tensor
    lengths: tuple[list[float], list[float]]


def first_pass(pair: Pair) -> FirstPass:
    """The layers on the samples to fit on: three passes of one layer."""
    branches = pair.parts.attention, pair.parts.mlp
    grams = Grams(centred=pair.has_bias(branches[0].writes))
    energies = [torch.zeros(()), torch.zeros(())]
    inverse, total = torch.zeros(2, 2, dtype=torch.float64), 0.0
    for state in pair.fit:
        heads, target, channels, squares = _as_they_are(pair, state)
        weights = state.weights
        if branches[0].after is None:
            grams.add(heads, target, weights)
        for i, units in enumerate((heads, channels)):
            # A norm divides by the length of each token, which massive activations make very unlike.
            divided = (1 / squares[i] if branches[i].after else torch.ones_like(squares[i])) * weights
            here = torch.cat(
                [part.double().square().mT @ by for part, by in zip(units.chunk(2, -1), divided, strict=True)]
            )
            energies[i] = energies[i].to(here) + here
        inverse += (weights / squares).sum(-1).cpu()
        total += float(weights.sum())
    lengths = (total / inverse).sqrt().tolist()
    return FirstPass(grams, energies[0], energies[1], (lengths[0], lengths[1]))


def attention_tokens(
    pair: Pair, states: Sequence[PairStates], columns: Tensor
) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """Batches of these columns of both layers' heads, what both attentions gave in turn, and weights."""
    for state in states:
        heads, target, *_ = _as_they_are(pair, state)
        yield heads[:, columns], target, state.weights


@torch.no_grad()
def _as_they_are(pair: Pair, state: PairStates) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of the real tokens: heads of both, their target, channels of both, mean squares written [2, 2, tokens].

    The mean squares are of attention and of MLP, of the first layer and of the second, before a norm.
    """
    writes = [pair.parts.attention.writes, pair.parts.mlp.writes]
    given, real = written(pair.parts.attention), state.real
    one, other = (Watched(layer, [*writes, given]) for layer in pair.wide)
    between, entered_a, left_a = one(state.calls[0], state.before)
    _, in_place, left_b = other(state.calls[1], between)
    _, entered_b, _ = other(state.calls[1], state.before)
    squares = [[left[path][real].double().square().mean(-1) for left in (left_a, left_b)] for path in writes]
    return (
        torch.cat([entered_a[writes[0]], entered_b[writes[0]]], dim=-1)[real],
        (left_a[given] + left_b[given])[real],
        torch.cat([entered_a[writes[1]], in_place[writes[1]]], dim=-1)[real],
        torch.stack([torch.stack(of_both) for of_both in squares]).clamp_min(1e-12),
    )
