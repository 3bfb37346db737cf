"""A norm's gain and bias, and how they go into the linears that read it."""

from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.model.parts import Branch
from depthprune.recovery.flatten.layout import rows
from depthprune.recovery.norm_after import NormAfter, known_norm

# Below this share of the mean a gain lets nothing through that could be expressed in it.
SMALL_GAIN = 1e-3


def affine(norm: nn.Module) -> NormAfter:
    """What a norm does. Raises `UserError` where it is neither an RMSNorm nor a LayerNorm with a gain."""
    found = known_norm(norm)
    if found is None:
        raise UserError(f"its norms ({type(norm).__name__}) are neither RMSNorm nor LayerNorm")
    return found


def norm_of(layer: nn.Module, branch: Branch) -> NormAfter | None:
    """The norm between a branch's last linear and the stream, if there is one."""
    return None if branch.after is None else affine(layer.get_submodule(branch.after))


@torch.no_grad()
def absorbed(linear: Any, norm: NormAfter) -> tuple[Tensor, Tensor | None]:
    """The weight [out, in] and bias of a linear that reads the norm without gain and bias, in float32.

    Raises `UserError` where the norm has a bias and the linear none to take it.
    """
    weight = rows(linear).float()
    bias = None if linear.bias is None else linear.bias.float()
    if norm.bias is not None and bool(norm.bias.any()):
        if bias is None:
            raise UserError("a norm of it has a bias, and a linear that reads it has none")
        bias = bias + weight @ norm.bias.float()
    return weight * norm.norm.gain.to(weight), bias


def settled_gain(norm: NormAfter) -> Tensor:
    """The gain that a merged layer's norm keeps, [d] in float64: its own, and 1 where that is nearly nothing.

    The linears that read it take the rest. So rows of the layer whose norm it was stay as they are, and a
    training finds weights of the size that it would find in that layer.
    """
    own = norm.norm.gain
    return torch.where(own.abs() < SMALL_GAIN * own.abs().mean(), 1, own)


@torch.no_grad()
def settle(norm: NormAfter) -> None:
    """Gives the norm its settled gain and no bias."""
    norm.weight.copy_(norm.stored(settled_gain(norm)))
    if norm.bias is not None:
        norm.bias.zero_()
