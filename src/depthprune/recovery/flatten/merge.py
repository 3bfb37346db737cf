"""One layer out of two: units of both, with the weights that a fit gave them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.model.parts import Branch
from depthprune.recovery.flatten.layout import Layout, rows
from depthprune.recovery.flatten.norms import absorbed, affine, norm_of, settle, settled_gain
from depthprune.recovery.flatten.solve import Written
from depthprune.recovery.norm_after import NormAfter

# Below this share of the other layer's gain one's own is too small for the other to be written in it.
FAR_SMALLER = 0.1
# Below this share of the one's usual length, the other writes nothing.
NOTHING = 1e-3


@dataclass(frozen=True)
class Units:
    """Which units of a branch stay, in their new order: layer 0 or 1 of the pair, [u], and its unit, [u]."""

    layer: Tensor
    unit: Tensor

    @classmethod
    def of_both(cls, chosen: Tensor, count: int) -> "Units":
        """From numbers in 0 … 2·count − 1, the first layer's before the second's."""
        return cls(chosen // count, chosen % count)

    @property
    def counts(self) -> tuple[int, int]:
        """How many are of either layer."""
        second = int(self.layer.sum())
        return len(self.layer) - second, second


@torch.no_grad()
def put_reads(
    target: nn.Module, pair: Sequence[nn.Module], branch: Branch, layout: Layout, units: Units
) -> None:
    """Gives the linears that begin a branch of `target` the rows of these units.

    The gains and shifts of both layers' norms go into the rows, expressed in the settled gain of the norm of
    `target`, which is left to the caller.
    """
    norm = None if branch.before is None else affine(target.get_submodule(branch.before))
    for path, places in layout.reads.items():
        sources = [_without_norm(layer, branch, path) for layer in pair]
        linear: Any = target.get_submodule(path)
        taken = (units.layer[:, None] * len(sources[0][0]) + places[units.unit]).flatten()
        into = places[: len(units.unit)].flatten()
        # Copies, since the target may be one of the sources.
        weight = torch.cat([weight for weight, _ in sources])[taken]
        weight = weight if norm is None else weight / settled_gain(norm)
        rows(linear)[into] = weight.to(linear.weight.dtype)
        if linear.bias is not None:
            linear.bias[into] = torch.cat([bias for _, bias in sources if bias is not None])[taken].to(
                linear.bias.dtype
            )


def _without_norm(layer: nn.Module, branch: Branch, path: str) -> tuple[Tensor, Tensor | None]:
    linear: Any = layer.get_submodule(path)
    if branch.before is None:
        return rows(linear), linear.bias
    return absorbed(linear, affine(layer.get_submodule(branch.before)))


@torch.no_grad()
def settle_norm(target: nn.Module, branch: Branch) -> None:
    """Settles the norm before a branch, once the linears that read it have taken the gains."""
    if branch.before is not None:
        settle(affine(target.get_submodule(branch.before)))


@torch.no_grad()
def put_writes(target: nn.Module, branch: Branch, written: Written) -> None:
    """Gives the linear that ends a branch its weight and bias, and the norm after it its gain."""
    linear: Any = target.get_submodule(branch.writes)
    rows(linear).copy_(written.weight.mT)
    if written.intercept is not None and linear.bias is not None:
        linear.bias.copy_(written.intercept)
    after = norm_of(target, branch)
    if after is not None and written.gain is not None:
        after.weight.copy_(after.stored(written.gain))


@torch.no_grad()
def writes_in_stream(pair: Sequence[nn.Module], branch: Branch) -> list[Tensor]:
    """What either layer's last linear writes, [n, d], times the gain of the norm after it if there is one."""
    found = []
    for layer in pair:
        linear, after = rows(layer.get_submodule(branch.writes)).mT.double(), norm_of(layer, branch)
        found.append(linear if after is None else linear * after.norm.gain)
    return found


@torch.no_grad()
def effective_writes(
    pair: Sequence[nn.Module], branch: Branch, like: nn.Module, lengths: Sequence[float]
) -> Tensor:
    """What both layers' linears write, one under the other, as a linear of the layer `like` would: [2n, d].

    Where a norm follows, both are expressed in the gain of `shared_norm`, and what they write is brought to
    the length of `like`.

    Args:
        lengths: the usual length that the norm divides by, of either layer.
    """
    linears, after = writes_in_stream(pair, branch), shared_norm(pair, branch, like, lengths)
    if after is None:
        return torch.cat(linears)
    gain, scale = after.norm.gain, lengths[_place(pair, like)]
    return torch.cat(
        [
            torch.where(gain == 0, 0, linear / gain) * (scale / length)
            for linear, length in zip(linears, lengths, strict=True)
        ]
    )


@torch.no_grad()
def shared_norm(
    pair: Sequence[nn.Module], branch: Branch, like: nn.Module, lengths: Sequence[float]
) -> NormAfter | None:
    """The norm behind the last linear of `like`, with a gain in which both layers can write, if there is one.

    It is its own, and of the other's size where that is far larger, unless the other writes nothing: a
    channel that `like` hardly lets through could be written only by huge weights.
    """
    after, place = norm_of(like, branch), _place(pair, like)
    other = norm_of(pair[1 - place], branch)
    if after is None or other is None or lengths[1 - place] < NOTHING * lengths[place]:
        return after
    own, theirs = after.norm.gain, other.norm.gain
    sign = torch.where(own < 0, -1.0, 1.0).to(own)
    gain = torch.where(own.abs() < FAR_SMALLER * theirs.abs(), sign * theirs.abs(), own)
    return replace(after, weight=nn.Parameter(after.stored(gain), requires_grad=False))


def _place(pair: Sequence[nn.Module], layer: nn.Module) -> int:
    return [one is layer for one in pair].index(True)
