"""The MLP's down projection, into which a linear map of its output is folded; whether a layer allows it."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from depthprune.errors import UserError
from depthprune.model.anatomy import LinearWeight, decoder_layers, down_projection, unwrap
from depthprune.model.hooks import hidden_state

# How far, relatively, a layer's output may move otherwise than m times the push: rounding in float32 is
# below 1e-5, a norm after the MLP above 0.1.
TOLERANCE = 1e-3
PROBE_TOKENS = 8


@dataclass(frozen=True)
class DownProjection:
    """A down projection in whose output its layer's output is linear, with slope `multiplier`.

    Attributes:
        layer: the index of the layer.
        holder: the linear, or the module of the stacked experts, that holds the weight.
        weight: the weight [d, k], however it is stored.
        bias: the experts' biases [E, d], which follow the map; a linear's own bias does not.
        multiplier: m, 1 in most families, the residual multiplier in Granite's.
    """

    layer: int
    holder: nn.Module
    weight: LinearWeight
    bias: nn.Parameter | None
    multiplier: float

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What a map changes."""
        return [self.weight.parameter, *([] if self.bias is None else [self.bias])]

    @contextmanager
    def recording(self, found: list[Tensor]) -> Iterator[None]:
        """Inside the block, each forward pass appends Y [tokens, d] to `found`.

        Y is what a map multiplies, m·W_down x without a linear's bias, in float32 or better: recomputed from
        the linear's input, and for experts their own, weighted output with their biases.
        """

        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = widened(inputs[0])
            weight = self.weight.parameter.mT if self.weight.transposed else self.weight.parameter
            found.append(self.multiplier * F.linear(x, weight.to(x.dtype)).flatten(0, -2))

        def after(_: nn.Module, __: Any, output: Tensor) -> None:
            # A copy, since some families go on to add to the output in place.
            found.append(self.multiplier * widened(output.clone()).flatten(0, -2))

        if self.weight.experts is None:
            handle = self.holder.register_forward_pre_hook(before)
        else:
            handle = self.holder.register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def folded(self, change: Tensor, dtype: torch.dtype | None = None) -> list[Tensor]:
        """`parameters` with (I + change) folded in, change [d, d]; rounded once, to `dtype` or their own."""
        tensors = [torch.empty_like(parameter) for parameter in self.parameters]
        old, new = self.weight.parameter, tensors[0]
        stacked = ((old, new),) if self.weight.experts is None else zip(old, new, strict=True)
        for before, after in stacked:
            wide = before.to(change.dtype)
            moved = wide + (wide @ change.mT if self.weight.transposed else change @ wide)
            after.copy_(moved.to(dtype or after.dtype))
        if self.bias is not None:
            wide = self.bias.to(change.dtype)
            tensors[1].copy_((wide + wide @ change.mT).to(dtype or self.bias.dtype))
        return tensors

    @contextmanager
    def holding(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Inside the block, the parameters have these values; nothing is copied."""
        before = [parameter.data for parameter in self.parameters]
        try:
            self.hold(tensors)
            yield
        finally:
            self.hold(before)

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Gives the parameters these values, without copying."""
        for parameter, tensor in zip(self.parameters, tensors, strict=True):
            parameter.data = tensor


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if that is what it is in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def check_some_layer_is_linear(model: nn.Module) -> None:
    """Raises `UserError` where no layer is linear in its down projection; one of each kind is tried."""
    kinds: dict[tuple[type, ...], int] = {}
    for i, layer in enumerate(decoder_layers(model)):
        kinds.setdefault(tuple(type(module) for module in layer.modules()), i)
    reasons = []
    for i in kinds.values():
        found = probe(model, i)
        if isinstance(found, DownProjection):
            return
        reasons.append(f"layer {i}: {found}")
    raise UserError(
        f"no layer of this {unwrap(model).config.model_type} can be repaired in its down projection "
        f"({'; '.join(reasons)}): choose recovery.method=none"
    )


def probe(model: nn.Module, i: int) -> DownProjection | str:
    """The down projection of layer i, or why a map folded into it does not reach the layer's output linearly.

    Found by trial: a random vector is added to the down projection's output, and the layer's output has to
    move by m times that vector. Done on a float32 copy of the layer, out of the way of bf16's rounding.
    Raises `UserError` for a layer whose output is not finite.
    """
    layer = decoder_layers(model)[i]
    weight = down_projection(layer)
    if weight is None:
        return "it has no down projection"
    path, name = weight.name.removesuffix(".weight"), ""
    if weight.experts is not None:
        path, _, name = path.rpartition(".")
    slope = _slope(layer, path, _arguments(model, layer), i)
    if isinstance(slope, str):
        return slope
    holder = layer.get_submodule(path)
    bias = dict(holder.named_parameters(recurse=False)).get(f"{name}_bias")
    return DownProjection(i, holder, weight, bias, slope)


def _arguments(model: nn.Module, layer: nn.Module) -> tuple[tuple, dict[str, Any]]:
    """What the layer is called with for a few arbitrary tokens, in float32."""
    calls: list[tuple[tuple, dict[str, Any]]] = []
    handle = layer.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    inner = unwrap(model)
    tokens = (
        torch.arange(1, 1 + PROBE_TOKENS, device=inner.device) % inner.config.get_text_config().vocab_size
    )
    try:
        with torch.no_grad():
            inner.base_model(input_ids=tokens[None], use_cache=False)
    finally:
        handle.remove()
    return calls[0]


def _slope(layer: nn.Module, path: str, arguments: tuple[tuple, dict[str, Any]], i: int) -> float | str:
    """m, or the reason why there is none."""
    wide = copy.deepcopy(layer).float()
    holder, shapes = wide.get_submodule(path), []

    def output() -> Tensor:
        # Copies, since some layers add to their input in place.
        args, kwargs = tree_map(_float_copy, arguments)
        with torch.no_grad():
            return hidden_state(wide(*args, **kwargs))

    with_shape = holder.register_forward_hook(lambda _, __, out: shapes.append(out.shape))
    rest = output()
    with_shape.remove()
    if not rest.isfinite().all():
        raise UserError(f"layer {i}: its output is not finite; load the model in float32 or bfloat16")
    if len(shapes) != 1 or shapes[0].numel() != rest.numel():
        return "its down projection does not give one row for each token"
    push = torch.randn(rest.shape, generator=torch.Generator().manual_seed(0)).to(rest)
    push *= rest.square().mean().sqrt()
    pushed = holder.register_forward_hook(lambda _, __, out: out + push.reshape(out.shape))
    moved = output() - rest
    pushed.remove()
    slope = float((moved * push).sum() / (push * push).sum())
    if (moved - slope * push).norm() > TOLERANCE * moved.norm() or slope == 0:
        return "its output is not linear in the down projection's, as with a norm after the MLP"
    return slope


def _float_copy(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.detach().to(torch.float32, copy=True)
    return value
