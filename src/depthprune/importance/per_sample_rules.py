"""Per-sample gradient norms of one module, from what went into it and what came back to it.

A batch of B samples of T tokens each; a module's tensors have B rows, or B·T (OPT's MLP, mixtures), or a
multiple of B·T (a norm over heads), sample by sample.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map
from transformers.pytorch_utils import Conv1D

# Linears with a forward of their own that computes the same.
LINEARS = ("FalconLinear",)
# Elements of the weight gradients that are formed at a time where the sum over tokens is cheaper than Grams.
_BLOCK_ELEMENTS = 2**20


@dataclass
class Call:
    """One call of a module in the forward pass, and what the backward pass brought to its outputs.

    Attributes:
        args, kwargs: what the module was called with.
        parameters: those that the call answers for, by their names in the module.
        samples, tokens: B and T.
        gradients: ∂loss/∂output by the place of the tensor among the output's leaves.
        rule: how the norms are found.
    """

    args: tuple
    kwargs: dict[str, Any]
    parameters: dict[str, nn.Parameter]
    samples: int
    tokens: int
    gradients: dict[int, Tensor] = field(default_factory=dict)
    rule: "Rule | None" = None

    def __post_init__(self) -> None:
        self._versions = [tensor._version for tensor in self.tensors()]

    def tensors(self) -> list[Tensor]:
        """What the module was called with, tensors only."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    def unchanged(self) -> bool:
        """Whether no tensor of the call was changed in place since."""
        return self._versions == [tensor._version for tensor in self.tensors()]

    def release(self) -> None:
        """Lets go of all tensors: autograd keeps the hook, and with it the call, until the pass ends."""
        self.args, self.kwargs, self.gradients = (), {}, {}

    @property
    def input(self) -> Tensor:
        """What a linear or a norm was called with."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()))

    @property
    def gradient(self) -> Tensor:
        """∂loss/∂output of a module with one output."""
        return next(iter(self.gradients.values()))


Rule = Callable[[nn.Module, list[Call]], dict[str, Tensor]]


def rule_of(module: nn.Module, call: Call, outputs: list[Tensor]) -> Rule | None:
    """How the module's norms are found: `replay` fits any module whose rows can be told apart by sample.

    None where they cannot: an expert that is called with the tokens that chose it, or with expert-major rows.
    """
    alone = not any("." in name for name in call.parameters)
    rows = {call.samples, call.samples * call.tokens}
    by_samples = call.samples == 1 or all(len(out) == max(rows) or _is_batch(out, call) for out in outputs)
    if alone and _is_norm(module, call):
        heads = len(outputs[0]) % (call.samples * call.tokens) == 0  # sample-major, as they are reshaped
        return norm if by_samples or heads else None
    if not by_samples:
        return None
    if alone and _is_linear(module):
        return linear
    rows |= {1, call.tokens}
    return replay if call.samples == 1 or all(len(t) in rows for t in call.tensors() if t.ndim) else None


def _is_batch(tensor: Tensor, call: Call) -> bool:
    """[B, .., ..]; a matrix of B rows is taken for B tokens that chose an expert."""
    return tensor.ndim > 2 and len(tensor) == call.samples


def _is_linear(module: nn.Module) -> bool:
    return type(module).forward in (nn.Linear.forward, Conv1D.forward) or type(module).__name__ in LINEARS


def _is_norm(module: nn.Module, call: Call) -> bool:
    named = any(name in type(module).__name__ for name in ("RMSNorm", "LayerNorm"))
    return named and all(p.shape == call.input.shape[-p.ndim :] for p in call.parameters.values())


def linear(module: nn.Module, calls: list[Call]) -> dict[str, Tensor]:
    """‖Σ_τ g_τ a_τᵀ‖² of each sample for the weight, ‖Σ_τ g_τ‖² for the bias; calls count as more tokens."""
    samples = calls[0].samples
    inputs, gradients = calls[0].input, by_sample(calls[0].gradient, samples)
    if len(calls) > 1:
        inputs = torch.cat([by_sample(call.input, samples) for call in calls], dim=1)
        gradients = torch.cat([by_sample(call.gradient, samples) for call in calls], dim=1)
    squares = {"weight": product_squares(inputs, gradients)}
    if "bias" in calls[0].parameters:
        squares["bias"] = gradients.sum(dim=1).square().sum(dim=-1)
    return squares


def product_squares(inputs: Tensor, gradients: Tensor) -> Tensor:
    """‖gᵀa‖_F² of each sample in float32, [B], for g float32 [B, T, d_out] and a [B, T, d_in] or [B·T, d_in].

    As Σ(aaᵀ ⊙ ggᵀ), two T×T Gram matrices, where they are cheaper than the product; else from the product,
    a block of its rows at a time. Never allocates anything of the weight's size.
    """
    samples, tokens, d_out = gradients.shape
    d_in = inputs.shape[-1]
    if tokens * (d_in + d_out) < d_in * d_out:
        grams = (gradients @ gradients.mT).mul_(input_gram(inputs, samples))
        return grams.sum(dim=(1, 2)).clamp_(min=0)
    rows = max(1, _BLOCK_ELEMENTS // (samples * d_in))
    inputs = by_sample(inputs, samples)
    blocks = [(block.mT @ inputs).square_().sum(dim=(1, 2)) for block in gradients.split(rows, dim=2)]
    return torch.stack(blocks).sum(dim=0)


@lru_cache(maxsize=1)
def input_gram(inputs: Tensor, samples: int) -> Tensor:
    """aaᵀ of each sample, [B, T, T]; the linears that share an input (q, k, v) come in a row."""
    rows = by_sample(inputs, samples)
    return rows @ rows.mT


def norm(module: nn.Module, calls: list[Call]) -> dict[str, Tensor]:
    """Σ_τ g ⊙ ∂y/∂w of each sample, for outputs that are affine in w elementwise: y(w=1) − y(w=0) is ∂y/∂w.

    Holds for LayerNorm and every kind of RMSNorm (1 + w, a gate, a bias), on the hidden state or on heads.
    """
    squares = {}
    for name, weight in calls[0].parameters.items():
        total = torch.zeros(())
        for call in calls:
            slope = _output_with(module, call, {name: torch.ones_like(weight)})
            slope = slope - _output_with(module, call, {name: torch.zeros_like(weight)})
            product = slope.float().mul_(call.gradient)
            total = total.to(product.device) + product.reshape(call.samples, -1, weight.numel()).sum(dim=1)
        squares[name] = total.square().sum(dim=1)
    return squares


def _output_with(module: nn.Module, call: Call, weights: dict[str, Tensor]) -> Tensor:
    return functional_call(module, weights, call.args, call.kwargs)


def replay(module: nn.Module, calls: list[Call]) -> dict[str, Tensor]:
    """Runs the module alone, forward and backward, for each sample: right for any module."""
    rows = [_replay_sample(module, calls, sample) for sample in range(calls[0].samples)]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _replay_sample(module: nn.Module, calls: list[Call], sample: int) -> dict[str, Tensor]:
    """The squared norms of one sample's gradients; a parameter that it did not reach is left at zero."""
    weights = {name: weight.detach().requires_grad_() for name, weight in calls[0].parameters.items()}
    losses = []
    with torch.enable_grad():
        for call in calls:
            args, kwargs, gradients = tree_map(
                lambda leaf, call=call: sample_of(leaf, sample, call),
                (call.args, call.kwargs, call.gradients),
            )
            outputs = tree_leaves(functional_call(module, weights, args, kwargs))
            losses += [(outputs[i], g) for i, g in gradients.items() if outputs[i].requires_grad]
        if not losses:
            return {name: weight.new_zeros((), dtype=torch.float32) for name, weight in weights.items()}
        found = torch.autograd.grad(
            [out for out, _ in losses], list(weights.values()), [g for _, g in losses], materialize_grads=True
        )
    return {name: gradient.float().square().sum() for name, gradient in zip(weights, found, strict=True)}


def sample_of(leaf: Any, sample: int, call: Call) -> Any:
    """The sample's rows of a tensor of B or B·T rows, detached; anything else as it is."""
    if not isinstance(leaf, Tensor):
        return leaf
    leaf = leaf.detach()
    if leaf.ndim and len(leaf) in (call.samples, call.samples * call.tokens):
        rows = len(leaf) // call.samples
        return leaf[sample * rows : (sample + 1) * rows]
    return leaf


def by_sample(tensor: Tensor, samples: int) -> Tensor:
    """float32 [B, tokens, features]; the cast comes before any product."""
    return tensor.detach().float().reshape(samples, -1, tensor.shape[-1])
