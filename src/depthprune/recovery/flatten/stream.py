"""Calibration samples on their way through a model whose layers are called one by one."""

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers, unwrap
from depthprune.model.hooks import Call, hidden_state
from depthprune.model.offloaded import at_hand
from depthprune.model.walk import TOLERANCE, at_entry
from depthprune.recovery.states import Batch, on_device


@dataclass(frozen=True)
class PairStates:
    """One batch at layers a and b, everything in float32.

    Attributes:
        before, after: the input of a as the model is now, and what b gives in the whole model, [B, T, d].
        calls: of a and of b.
        real: the real tokens, [B, T].
    """

    before: Tensor
    after: Tensor
    calls: tuple[Call, Call]
    real: Tensor

    @property
    def weights(self) -> Tensor:
        """1/‖h_b‖² of each real token, so that no massive activation rules a sum over tokens: [tokens]."""
        return 1 / self.after[self.real].double().square().sum(dim=-1).clamp_min(1e-12)


class Stream:
    """Batches at the entry of the first layer, with all that the layers are given besides.

    `whole` are the layers as they were when it was made.

    Raises `UserError` for a model that does more between its layers than to hand on hidden states.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        self.layers = decoder_layers(model)
        self.whole = list(self.layers)
        self.batches = batches
        self._batches: list[tuple[Tensor, list[Call], Tensor]] = []
        for inputs, real in on_device(model, batches):
            self._batches.append((*at_entry(model, unwrap(model).base_model, inputs), real))
        _check_walk(model, self)

    def entry(self) -> list[Tensor]:
        """What enters the first layer, a [B, T, d] a batch."""
        return [hidden for hidden, _, _ in self._batches]

    @torch.no_grad()
    def through(self, i: int, hidden: Sequence[Tensor], layer: nn.Module | None = None) -> list[Tensor]:
        """What layer i, or another one in its place, makes of these hidden states."""
        return [
            calls[i](layer or self.layers[i], states)
            for (_, calls, _), states in zip(self._batches, hidden, strict=True)
        ]

    def before(self, i: int, left: Sequence[int]) -> list[Tensor]:
        """What enters layer i where only the layers `left` are there."""
        hidden = self.entry()
        for earlier in left:
            if earlier < i:
                hidden = self.through(earlier, hidden)
        return hidden

    def pairs(
        self, ends: Mapping[int, int], wanted: Collection[tuple[int, int]]
    ) -> Iterator[tuple[tuple[int, int], list[PairStates]]]:
        """The states at each wanted pair of neighbours, walking through the model and through the whole one.

        A layer paired with itself is a layer alone.

        Args:
            ends: the layers that are there, ascending, each with the last of the whole model's layers that it
                stands for, whose output it is to give.
        """
        hidden, targets, reached = self.entry(), self.entry(), 0
        left = {*wanted}
        for a, following in zip_longest(ends, [*ends][1:]):
            for b in (a, following):
                if (a, b) in left:
                    left.remove((a, b))
                    for i in range(reached, ends[b] + 1):
                        targets = self.through(i, targets, self.whole[i])
                    reached = ends[b] + 1
                    yield (a, b), self._at(a, b, hidden, targets)
            if not left:
                return
            hidden = self.through(a, hidden)

    def _at(self, a: int, b: int, before: list[Tensor], after: list[Tensor]) -> list[PairStates]:
        return [
            PairStates(one.float(), other.float(), (calls[a].in_float32(), calls[b].in_float32()), real)
            for (_, calls, real), one, other in zip(self._batches, before, after, strict=True)
        ]


def _check_walk(model: nn.Module, stream: Stream) -> None:
    """Compares the layers called one by one with the model's own pass, on the first batch."""
    found: list[Tensor] = []
    last = len(stream.layers) - 1
    handle = stream.layers[last].register_forward_hook(
        lambda _, __, out: found.append(hidden_state(out).clone())
    )
    try:
        ((inputs, real),) = on_device(model, stream.batches[:1])
        unwrap(model).base_model(**inputs, use_cache=False)
    finally:
        handle.remove()
    hidden, calls, _ = stream._batches[0]
    for layer, call in zip(stream.layers, calls, strict=True):
        hidden = call(layer, hidden)
    if not (hidden - found[0])[real].norm() <= TOLERANCE * found[0][real].norm():
        raise UserError(
            f"{unwrap(model).config.model_type}: more goes from layer to layer of this model than hidden "
            "states, so no layer can be fitted to two: choose another recovery"
        )


def in_float32(layer: nn.Module) -> nn.Module:
    """A copy of a layer to compute with, out of the way of bf16's rounding."""
    with at_hand(layer):
        return copy.deepcopy(layer).float()


class Watched:
    """A layer with a hook on some of its modules: runs it and tells what entered and left them.

    An output given in `replaced` stands for what that module computes.
    """

    def __init__(self, layer: nn.Module, paths: Sequence[str]) -> None:
        self.layer, self.paths = layer, paths

    @torch.no_grad()
    def __call__(
        self, call: Call, hidden: Tensor, replaced: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """The layer's output, and the inputs and outputs of the watched modules, each [B, T, n]."""
        entered: dict[str, Tensor] = {}
        left: dict[str, Tensor] = {}

        def watch(path: str, args: tuple, out: Tensor) -> Tensor | None:
            shape = (*hidden.shape[:2], -1)  # OPT's MLP works on [tokens, n]
            entered[path] = args[0].detach().clone().view(shape)
            left[path] = out.detach().clone().view(shape)
            other = (replaced or {}).get(path)
            return None if other is None else other.view(out.shape)

        with ExitStack() as hooks:
            for path in self.paths:
                module = self.layer.get_submodule(path)
                handle = module.register_forward_hook(lambda _, args, out, path=path: watch(path, args, out))
                hooks.callback(handle.remove)
            output = call(self.layer, hidden)
        return output, entered, left
