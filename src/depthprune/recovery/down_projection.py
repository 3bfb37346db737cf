"""The MLP's down projection, into which a linear map of its output is folded; whether a layer allows it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.model.anatomy import LinearWeight, decoder_layers, down_projection, one_of_each_kind, unwrap
from depthprune.model.offloaded import at_hand, kept_aside
from depthprune.model.skip import skipped
from depthprune.recovery.norm_after import NormAfter, find_norm_after
from depthprune.recovery.slope import Arguments, call_arguments, slope


@dataclass(frozen=True)
class DownProjection:
    """A down projection whose output enters its layer's output linearly, or through a norm.

    Attributes:
        layer, block: the index of the layer, and the layer.
        holder: the linear, or the module of the stacked experts, that holds the weight.
        weight: the weight [d, k], however it is stored.
        bias: the name in the layer of what follows the map: the experts' biases [E, d], and before a norm a
            linear's own, which otherwise does not.
        multiplier: m, by which the output enters, 1 in most families, the residual multiplier in Granite's.
        norm: what it goes through before it is added to the residual stream, if anything.
    """

    layer: int
    block: nn.Module
    holder: nn.Module
    weight: LinearWeight
    bias: str | None
    multiplier: float
    norm: NormAfter | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What a map changes, and with it a gain."""
        found = [self.weight.name, self.bias, None if self.norm is None else self.norm.name]
        return [self.block.get_parameter(name) for name in found if name is not None]

    def values(self) -> list[Tensor]:
        """What the parameters hold."""
        with at_hand(self.block):
            return kept_aside(self.block, [parameter.data for parameter in self.parameters])

    @contextmanager
    def recording(self, found: list[Tensor]) -> Iterator[None]:
        """Inside the block, each forward pass appends Y [tokens, d] to `found`.

        Y is what a map multiplies, m·W_down x without a linear's bias, in float32 or better: recomputed from
        the linear's input, and for experts their own, weighted output with their biases. Before a norm it is
        W_down x with the bias.
        """
        multiplier = self.multiplier if self.norm is None else 1.0

        def before(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = widened(inputs[0])
            weight, *others = (parameter.to(x.dtype) for parameter in self.parameters)
            weight = weight.mT if self.weight.transposed else weight
            bias = None if self.bias is None else others[0]
            found.append(multiplier * F.linear(x, weight, bias).flatten(0, -2))

        def after(_: nn.Module, __: Any, output: Tensor) -> None:
            # A copy, since some families go on to add to the output in place.
            found.append(multiplier * widened(output.clone()).flatten(0, -2))

        if self.weight.experts is None:
            handle = self.holder.register_forward_pre_hook(before)
        else:
            handle = self.holder.register_forward_hook(after)
        try:
            yield
        finally:
            handle.remove()

    @torch.no_grad()
    def folded(
        self, change: Tensor, dtype: torch.dtype | None = None, gain: Tensor | None = None
    ) -> list[Tensor]:
        """`parameters` with (I + change) folded in, change [d, d], and with the norm's `gain` [d] if given.

        Rounded once, to `dtype` or their own.
        """
        with at_hand(self.block):
            return self._folded(self.parameters, change, dtype, gain)

    def _folded(
        self,
        parameters: Sequence[nn.Parameter],
        change: Tensor,
        dtype: torch.dtype | None,
        gain: Tensor | None,
    ) -> list[Tensor]:
        tensors = [torch.empty_like(parameter) for parameter in parameters]
        old, new = parameters[0], tensors[0]
        stacked = ((old, new),) if self.weight.experts is None else zip(old, new, strict=True)
        for before, after in stacked:
            wide = before.to(change.dtype)
            moved = wide + (wide @ change.mT if self.weight.transposed else change @ wide)
            after.copy_(moved.to(dtype or after.dtype))
        if self.bias is not None:
            wide = parameters[1].to(change.dtype)
            tensors[1].copy_((wide + wide @ change.mT).to(dtype or parameters[1].dtype))
        if self.norm is not None:
            kept = parameters[-1].detach() if gain is None else self.norm.stored(gain, dtype)
            tensors[-1].copy_(kept)
        return tensors

    @contextmanager
    def holding(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Inside the block, the parameters have these values; nothing is copied."""
        before = self.values()
        try:
            self.hold(tensors)
            yield
        finally:
            self.hold(before)

    def hold(self, tensors: Sequence[Tensor]) -> None:
        """Gives the parameters these values, without copying."""
        with at_hand(self.block):
            for parameter, tensor in zip(self.parameters, tensors, strict=True):
                parameter.data = tensor.to(parameter.device)


def widened(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if that is what it is in."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def first_that_takes_a_map(model: nn.Module) -> DownProjection:
    """The first layer's down projection that does, one layer of each kind tried; `UserError` if none does."""
    reasons = []
    for i in one_of_each_kind(model):
        found = probe(model, i)
        if isinstance(found, DownProjection):
            return found
        reasons.append(f"layer {i}: {found}")
    raise UserError(
        f"no layer of this {unwrap(model).config.model_type} can be repaired in its down projection "
        f"({'; '.join(reasons)}): choose recovery.method=none"
    )


def probe(model: nn.Module, i: int) -> DownProjection | str:
    """The down projection of layer i, or why a map folded into it cannot be fitted to the layer's output.

    Found by trial: whether the layer's output moves by m times what is added to the down projection's, and
    if not, whether a norm lies between. Raises `UserError` for a layer whose output is not finite.
    """
    layers = decoder_layers(model)
    with skipped(model, range(i + 1, len(layers))):
        arguments = call_arguments(model)[i]
    with at_hand(layers[i]):
        return _probe(layers[i], i, arguments)


def _probe(layer: nn.Module, i: int, arguments: Arguments) -> DownProjection | str:
    weight = down_projection(layer)
    if weight is None:
        return "it has no down projection"
    path, name = weight.name.removesuffix(".weight"), ""
    if weight.experts is not None:
        path, _, name = path.rpartition(".")
    holder = layer.get_submodule(path)
    biases = {f"{path}.{leaf}" for leaf, _ in holder.named_parameters(recurse=False)}
    multiplier = slope(layer, path, arguments, i)
    if multiplier:
        bias = f"{path}.{name}_bias"
        return DownProjection(i, layer, holder, weight, bias if bias in biases else None, multiplier)
    if multiplier is not None:
        return "its down projection does not give one row for each token"
    if weight.experts is not None:
        return "its output is not linear in that of its experts"
    norm = find_norm_after(layer, path, arguments, i)
    if isinstance(norm, str):
        return norm
    bias = f"{path}.bias"
    return DownProjection(i, layer, holder, weight, bias if bias in biases else None, norm.multiplier, norm)
