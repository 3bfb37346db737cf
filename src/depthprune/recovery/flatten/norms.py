"""A norm's gain and bias, and how they go into the linears that read it."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.model.parts import Branch
from depthprune.recovery.flatten.layout import rows
from depthprune.recovery.through_norm import Norm

EPSILONS = ("variance_epsilon", "eps", "epsilon")


# N(x + c) = N(x) holds to rounding where the mean is taken off, and not at all where it is not.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Affine:
    """norm(x) = gain ⊙ N(x) + shift, N dividing by √(mean(x²) + ε), after taking the mean off if `centred`.

    Gain 1 is stored as `neutral`: Gemma keeps gain − 1.
    """

    gain: Tensor
    shift: Tensor | None
    neutral: float
    epsilon: float
    centred: bool

    @property
    def without_shift(self) -> Norm:
        """As a fit through it takes it."""
        return Norm(self.gain, self.epsilon, self.centred)


@torch.no_grad()
def affine(norm: nn.Module) -> Affine:
    """What a norm does, found by trying it with weights of 0.

    Raises `UserError` for a norm with other parameters than a weight and a bias.
    """
    named = dict(norm.named_parameters())
    if named.keys() - {"weight", "bias"} or "weight" not in named:
        raise UserError(f"its norms ({type(norm).__name__}) hold {', '.join(named) or 'nothing'}")
    weight, shift = named["weight"].float(), named.get("bias")
    trial: Any = copy.deepcopy(norm).float()
    if shift is not None:
        trial.bias.zero_()
    probe = torch.linspace(-1, 2, weight.numel(), device=weight.device)[None, None]
    trial.weight.fill_(1)
    centred = bool((trial(probe + 1) - trial(probe)).abs().max() < TOLERANCE)
    trial.weight.zero_()
    added = bool(trial(probe).any())
    epsilon = next((float(getattr(norm, name)) for name in EPSILONS if hasattr(norm, name)), 0.0)
    return Affine(
        1 + weight if added else weight,
        None if shift is None else shift.float(),
        0.0 if added else 1.0,
        epsilon,
        centred,
    )


def norm_after(layer: nn.Module, branch: Branch) -> Affine | None:
    """The norm between a branch's last linear and the stream, if there is one."""
    return None if branch.after is None else affine(layer.get_submodule(branch.after))


@torch.no_grad()
def absorbed(linear: Any, norm: Affine) -> tuple[Tensor, Tensor | None]:
    """The weight [out, in] and bias of a linear that reads the norm without gain and shift, in float32.

    Raises `UserError` where the norm has a shift and the linear no bias to take it.
    """
    weight = rows(linear).float()
    bias = None if linear.bias is None else linear.bias.float()
    if norm.shift is not None and bool(norm.shift.any()):
        if bias is None:
            raise UserError("a norm of it has a bias, and a linear that reads it has none")
        bias = bias + weight @ norm.shift
    return weight * norm.gain, bias


@torch.no_grad()
def set_gain(norm: Any, gain: Tensor) -> None:
    """Gives the norm this gain; its shift stays."""
    norm.weight.copy_(gain - (1 - affine(norm).neutral))


@torch.no_grad()
def neutralise(norm: Any, found: Affine) -> None:
    """Gives the norm gain 1 and no shift."""
    norm.weight.fill_(found.neutral)
    if found.shift is not None:
        norm.bias.zero_()
