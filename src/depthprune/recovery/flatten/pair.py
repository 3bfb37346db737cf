"""Two neighbouring layers, and what stands in the way of their becoming one."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers, unwrap
from depthprune.model.depth_config import text_config
from depthprune.model.parts import Branch, LayerParts, layer_parts
from depthprune.model.traits import OWN_INDEX
from depthprune.recovery.flatten.layout import Layout, attention_layout, mlp_layout
from depthprune.recovery.flatten.stream import PairStates, Watched, in_float32

Heads = Literal["both", "first", "second"]
"""Where the heads of the merged layer come from."""

# How far, relatively, a layer may be from x + m·(attention + MLP): rounding is below 1e-5, a norm above 0.1.
TOLERANCE = 1e-3


class Pair:
    """Layers a and b, neighbours but for layers that are gone, on the samples to fit on and those held out.

    Raises `UserError` with the reason where they cannot be one layer.
    """

    def __init__(
        self, model: nn.Module, places: tuple[int, int], fit: list[PairStates], held_out: list[PairStates]
    ) -> None:
        layers = decoder_layers(model)
        self.first, self.second = places
        self.sources = layers[self.first], layers[self.second]
        self.wide = in_float32(self.sources[0]), in_float32(self.sources[1])
        self.fit, self.held_out = fit, held_out
        self.parts = self._common_parts()
        text = text_config(unwrap(model).config)
        self.kv_heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        _ = self.multiplier, self.channels  # refused now, not after the first fit
        if any(b.after and self.has_bias(b.writes) for b in (self.parts.attention, self.parts.mlp)):
            raise UserError("a linear of it has a bias, and a norm comes after it")

    @cached_property
    def origins(self) -> tuple[Heads, ...]:
        """Where the heads can come from: both layers, where nothing in the attention is one layer's alone."""
        attention = self.parts.attention
        owner = attention.writes.rpartition(".")[0]
        one = self.sources[0].get_submodule(owner)
        known = {
            f"{path}.{kind}" for path in (*attention.reads, attention.writes) for kind in ("weight", "bias")
        }
        extra = {f"{owner}.{name}" for name, _ in one.named_parameters()} - known
        mixable = not extra and self.groups is not None and len(self.groups) > 1
        return ("both",) if mixable and self.alike else ("first", "second")

    @cached_property
    def alike(self) -> bool:
        """Whether either could stand in the other's place: they compute and are called in the same way."""
        modules = zip(self.sources[0].modules(), self.sources[1].modules(), strict=True)
        same = all(_constants(one) == _constants(other) for one, other in modules)
        one, other = self.fit[0].calls
        return same and _same(one.args, other.args) and _same(dict(one.kwargs), dict(other.kwargs))

    @cached_property
    def groups(self) -> Layout | None:
        """The groups of the attention, where they can be told apart."""
        return attention_layout(self.sources[0], self.parts.attention, self.kv_heads)

    @cached_property
    def channels(self) -> Layout:
        found = mlp_layout(self.sources[0], self.parts.mlp)
        if found is None:
            raise UserError("the linears of its MLP do not fall into channels")
        return found

    @cached_property
    def multiplier(self) -> float:
        """m in h = x + m·(attention + MLP), 1 in most families; `UserError` where h is something else."""
        paths = [written(self.parts.attention), written(self.parts.mlp)]
        state, moved, given = self.fit[0], [], []
        hidden = state.before
        for layer, call in zip(self.wide, state.calls, strict=True):  # one of them may do nothing
            output, _, left = Watched(layer, paths)(call, hidden)
            moved.append(output - hidden)
            given.append(left[paths[0]] + left[paths[1]])
            hidden = output
        movement, sublayers = torch.stack(moved), torch.stack(given)
        slope = float((movement * sublayers).sum() / sublayers.square().sum())
        if (movement - slope * sublayers).norm() > TOLERANCE * movement.norm():
            raise UserError("its attention and MLP are not simply added to the residual stream")
        return slope

    def has_bias(self, path: str) -> bool:
        return self.sources[0].get_submodule(path).bias is not None

    def error(self, layer: nn.Module, heads: Heads, states: Sequence[PairStates]) -> float:
        """The mean over tokens of ‖ĥ − h_b‖²/‖h_b‖², ĥ what the layer makes of the input of a."""
        wide, side = in_float32(layer), int(heads == "second")
        return _error(states, lambda state: state.calls[side](wide, state.before))

    @cached_property
    def drift(self) -> float:
        """The error of the two as they are, on the held-out samples: of what was done before them."""
        one, other = self.wide
        return _error(self.held_out, lambda state: state.calls[1](other, state.calls[0](one, state.before)))

    def _common_parts(self) -> LayerParts:
        """The parts of both layers, which have to be alike."""
        state = self.fit[0]
        found = [
            layer_parts(layer, ((state.before, *call.args), call.kwargs))
            for layer, call in zip(self.sources, state.calls, strict=True)
        ]
        shapes = [[tuple(parameter.shape) for parameter in layer.parameters()] for layer in self.sources]
        if found[0] != found[1] or shapes[0] != shapes[1]:
            raise UserError(f"layers {self.first} and {self.second} are of different kinds")
        return found[0]


def written(branch: Branch) -> str:
    """The module whose output a branch adds to the stream."""
    return branch.after or branch.writes


@torch.no_grad()
def _error(states: Sequence[PairStates], output: Callable[[PairStates], Tensor]) -> float:
    total, tokens = 0.0, 0
    for state in states:
        missed = output(state) - state.after
        total += float((missed[state.real].double().square().sum(dim=1) * state.weights).sum())
        tokens += int(state.real.sum())
    return total / tokens


def _constants(module: nn.Module) -> dict[str, object]:
    """The numbers and words that a module computes with, but for its place."""
    plain = (int, float, str, bool, type(None))
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, plain) and name not in OWN_INDEX
    }


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one is other or one == other
