"""Which modules of a decoder layer are its attention's and which its MLP's; layers made of two.

Leaving out the MLP of a layer and the attention of a later one, with all that lies between, leaves an
attention and an MLP: one layer of the standard shape, which takes the later one's MLP.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder, decoder_layers
from depthprune.model.depth_config import OF_THE_MLP
from depthprune.model.hooks import hidden_state
from depthprune.model.skip import skipped

# What families call the attention of a layer, or what stands in its place.
MIXERS = ("self_attn", "attn", "attention", "self_attention", "linear_attn", "mamba", "conv")

MlpFrom = Mapping[int, int]
"""Kept layer → the removed layer behind it whose MLP, with its norms, it takes."""


@dataclass(frozen=True)
class Sides:
    """The modules directly in a layer that hold parameters, in the order in which they are called.

    Attributes:
        attention_after, mlp_after: the norm between the side's output and the residual stream, None without.
    """

    attention: tuple[str, ...]
    mlp: tuple[str, ...]
    attention_after: str | None
    mlp_after: str | None


def check_mlp_from(mlp_from: MlpFrom, removed: Sequence[int], depth: int) -> None:
    """Raises `UserError` unless each kept layer takes the MLP of a removed one before the next kept layer."""
    kept = [i for i in range(depth) if i not in set(removed)]
    for layer, other in mlp_from.items():
        after = next((i for i in kept if i > layer), depth)
        if layer not in kept or not layer < other < after:
            raise UserError(
                f"layer {layer} cannot take the MLP of layer {other}: a kept layer takes that of a removed "
                f"one between it and the next kept layer, which here are {_span(layer, after)}"
            )


def _span(layer: int, after: int) -> str:
    return "none" if after == layer + 1 else f"layers {layer + 1} to {after - 1}"


def layer_sides(whole: PreTrainedModel) -> list[Sides]:
    """The sides of each layer of a model on the meta device.

    Each kind of layer is called once, with every parameter zero: it then has to hand on what it reads, and
    which module reads whose output tells the rest. Raises `UserError` with the reason where layers are not
    made of an attention and of an MLP behind it.
    """
    model = _with_zeros(whole)
    found: dict[tuple, Sides] = {}
    sides = []
    for i, layer in enumerate(decoder_layers(model)):
        kind = tuple((name, type(child)) for name, child in layer.named_children())
        if kind not in found:
            try:
                found[kind] = _Calls(model, i).sides()
            except UserError as reason:
                kind_of_model = whole.config.model_type
                raise UserError(
                    f"{kind_of_model}: its layers cannot be divided into attention and MLP: {reason}"
                ) from None
        sides.append(found[kind])
    return sides


def _with_zeros(whole: PreTrainedModel) -> PreTrainedModel:
    """A copy on the CPU whose parameters are zero and take no memory."""
    model = copy.deepcopy(whole)
    model.set_experts_implementation("eager")  # grouped products want weights in memory
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(torch.zeros(()).expand(parameter.shape), False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)
    return model.eval()


class _Calls:
    """What each module directly in a layer read and returned, in the order of the calls."""

    def __init__(self, model: PreTrainedModel, index: int) -> None:
        layer = decoder_layers(model)[index]
        self.layer = layer
        self.read: dict[str, list[Tensor]] = {}
        self.returned: dict[str, Tensor] = {}
        self.stream = torch.empty(0)
        handles = [layer.register_forward_pre_hook(self._enter, with_kwargs=True)]
        handles.append(layer.register_forward_hook(lambda _, __, output: self._leave(output)))
        for name, child in layer.named_children():
            handles.append(
                child.register_forward_hook(
                    lambda _, args, kwargs, output, name=name: self._keep(name, args, kwargs, output),
                    with_kwargs=True,
                )
            )
        try:
            others = [i for i in range(len(decoder_layers(model))) if i != index]
            ids = torch.zeros(1, 2, dtype=torch.long)
            with torch.no_grad(), skipped(model, others):
                decoder(model)(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, _: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        given = args[0] if args else kwargs["hidden_states"]
        self.stream = torch.randn(given.shape, generator=torch.Generator().manual_seed(0)).to(given.dtype)
        self.before = self.stream.clone()
        return ((self.stream, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": self.stream})

    def _leave(self, output: Any) -> None:
        self.left = hidden_state(output)

    def _keep(self, name: str, args: tuple, kwargs: dict, output: Any) -> None:
        self.read[name] = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        self.returned[name] = hidden_state(output)

    def sides(self) -> Sides:
        if not torch.equal(self.left, self.before):
            raise UserError("with all its weights zero a layer does not hand on what it reads")
        if list(self.layer.parameters(recurse=False)):
            raise UserError("a layer has parameters that belong to neither")
        holding = [
            name for name, child in self.layer.named_children() if next(child.parameters(), None) is not None
        ]
        if unused := [name for name in holding if name not in self.read]:
            raise UserError(f"{unused[0]} is not called as a module")
        mixers = [name for name in MIXERS if name in holding]
        if len(mixers) != 1:
            raise UserError("a layer has no attention, or more than one")
        return self._divide(mixers[0], [name for name in self.read if name in holding])

    def _divide(self, mixer: str, called: list[str]) -> Sides:
        before = [name for name in called if self._reads(mixer, name)]
        after = [
            name
            for name in called
            if self._reads(name, mixer) and not self._is_read(name) and _is_norm(self.layer, name)
        ]
        own = {*before, mixer, *after}
        mlp = tuple(name for name in called if name not in own)
        early = [self.stream, *(self.returned[name] for name in before)]
        if not mlp or any(tensor is other for name in mlp for tensor in self.read[name] for other in early):
            raise UserError("the MLP reads what the attention reads")
        last = mlp[-1] if len(mlp) > 1 and _is_norm(self.layer, mlp[-1]) else None
        return Sides(tuple(name for name in called if name in own), mlp, after[0] if after else None, last)

    def _reads(self, name: str, source: str) -> bool:
        return name != source and any(tensor is self.returned[source] for tensor in self.read[name])

    def _is_read(self, source: str) -> bool:
        return any(self._reads(name, source) for name in self.read)


def _is_norm(layer: nn.Module, name: str) -> bool:
    return "norm" in type(layer.get_submodule(name)).__name__.lower()


@contextmanager
def recomposed(model: nn.Module, mlp_from: MlpFrom, sides: Sequence[Sides]) -> Iterator[None]:
    """Inside the block these layers have each other's MLP: no weight is copied."""
    exchange_mlps(model, mlp_from, sides)
    try:
        yield
    finally:
        exchange_mlps(model, mlp_from, sides)


def exchange_mlps(model: nn.Module, mlp_from: MlpFrom, sides: Sequence[Sides]) -> None:
    """Puts the MLP of each layer in the place of the other's, in place; twice is not at all."""
    layers = decoder_layers(model)
    for one, other in mlp_from.items():
        taken = [_take_mlp(layers[i], mlp_modules(layers[i], sides)) for i in (one, other)]
        _put_mlp(layers[one], *taken[1])
        _put_mlp(layers[other], *taken[0])


def mlp_modules(layer: nn.Module, sides: Sequence[Sides]) -> list[str]:
    """The MLP of a layer as it is now, whichever layer's it was, in the order in which it is called."""
    names = dict.fromkeys(name for one in dict.fromkeys(sides) for name in one.mlp)
    return [name for name in names if name in layer._modules]


def both_sides(model: nn.Module, sides: Sequence[Sides]) -> list[list[nn.Module]]:
    """The modules of each layer's attention and of its MLP, as it is now, in turn."""
    found = []
    for layer, own in zip(decoder_layers(model), sides, strict=True):
        for names in (own.attention, mlp_modules(layer, sides)):
            found.append([layer.get_submodule(name) for name in names])
    return found


def _take_mlp(layer: nn.Module, names: Sequence[str]) -> tuple[dict[str, nn.Module], dict[str, Any]]:
    modules = {name: layer._modules.pop(name) for name in names}
    plain = {name: value for name, value in vars(layer).items() if _says_what_the_mlp_is(name, value)}
    for name in plain:
        delattr(layer, name)
    return modules, plain  # type: ignore[return-value]


def _put_mlp(layer: nn.Module, modules: dict[str, nn.Module], plain: dict[str, Any]) -> None:
    for name, module in modules.items():
        layer.add_module(name, module)
    for name, value in plain.items():
        setattr(layer, name, value)


def _says_what_the_mlp_is(name: str, value: Any) -> bool:
    """Of a layer's plain attributes; all others stay with the attention."""
    return OF_THE_MLP.search(name) is not None and isinstance(value, (bool, int, float, str))
