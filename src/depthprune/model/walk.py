"""Forward passes of many batches: one after the other, or where layers are offloaded all layer by layer.

Either way each layer computes the same on the same batch. Layer by layer each of them is read once.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from depthprune.cost import with_progress
from depthprune.model.anatomy import decoder, decoder_layers, unwrap
from depthprune.model.hooks import Call, for_each_layer_io, hidden_state, layer_input
from depthprune.model.offloaded import shelf_of
from depthprune.model.resume import replaced_input, without_each_pair
from depthprune.model.skip import Forms, skipped, skipped_layers
from depthprune.model.states import Room, States
from depthprune.model.sublayers import Sides

log = logging.getLogger("depthprune")

Batch = dict[str, Tensor]
Start = tuple[int, Sequence[Tensor]]
"""A layer, and what it is to read of each batch."""
Visit = Callable[[int, int, Tensor, Tensor], None]
# How far layers called one by one may be from the model's own pass, relatively; bf16 rounds by under 1e-2.
TOLERANCE = 0.05


def each_layer_io(
    model: nn.Module,
    batches: Sequence[Batch],
    visit: Visit,
    said: str | None = None,
) -> None:
    """Calls `visit(n, i, before, after)` for every batch n at each layer i, as `for_each_layer_io` does."""
    if not walks(model, batches):
        for n, batch in enumerate(batches if said is None else with_progress(batches, said)):
            for_each_layer_io(model, batch, partial(visit, n))
        return
    for i, n, before, after in Walk(model, batches, unwrap(model).base_model).through(said):
        visit(n, i, before, after)


def outputs(model: nn.Module, batches: Sequence[Batch], start: Start | None = None) -> Iterator[ModelOutput]:
    """What the decoder returns for each batch.

    Args:
        start: begins at this layer; those before it are skipped.
    """
    if not walks(model, batches):
        for n, batch in enumerate(batches):
            with ExitStack() as stack:
                if start is not None:
                    stack.enter_context(replaced_input(decoder_layers(model)[start[0]], start[1][n]))
                output = decoder(model)(**_read(model, batch), use_cache=False)
            yield output
        return
    walk = Walk(model, batches, decoder(model), start)
    for _ in walk.through():
        pass
    for n in range(len(batches)):
        yield walk.output(n, walk.states[n])


def after_layer(model: nn.Module, i: int, batches: Sequence[Batch]) -> Iterator[Tensor]:
    """h_{i+1} of each batch, [B, T, d]; no later layer is called."""
    if walks(model, batches):
        for j, _, _, after in Walk(model, batches, unwrap(model).base_model).through(until=i):
            if j == i:
                yield after
        return
    layers, found = decoder_layers(model), []
    for batch in batches:
        handle = layers[i].register_forward_hook(lambda _, __, out: found.append(hidden_state(out).clone()))
        try:
            with skipped(model, range(i + 1, len(layers))):
                unwrap(model).base_model(**_read(model, batch), use_cache=False)
        finally:
            handle.remove()
        yield found.pop()


def in_step(model: nn.Module, batches: Sequence[Batch]) -> list[Sequence[Batch]]:
    """The batches in groups that go through the model together: one by one, or all at once."""
    return [batches] if walks(model, batches) else [[batch] for batch in batches]


def without_each(
    model: nn.Module, batches: Sequence[Batch], sides: Sequence[Sides], said: str
) -> Iterator[tuple[int, int, bool, ModelOutput]]:
    """`without_each_pair` of all batches, with the number of the batch before."""
    if sides or not walks(model, batches):
        for n, batch in enumerate(with_progress(batches, said)):
            for i, across, output in without_each_pair(model, batch, sides):
                yield n, i, across, output
        return
    first = 0
    while first < len(batches):
        walk = Walk(model, batches[first:], decoder(model), fork=True)
        for n, i, output in walk.without_each(said):
            yield first + n, i, False, output
        first += len(walk.inputs)


def walks(model: nn.Module, batches: Sequence[Batch]) -> bool:
    """Whether batches go through the model layer by layer: where its layers are offloaded, and can be called
    one by one."""
    shelf = shelf_of(model)
    if shelf is None or not batches:
        return False
    if shelf.walks is None:
        shelf.walks = _stand_alone(model, batches[0])
        if not shelf.walks:
            kind = unwrap(model).config.model_type
            log.info("more goes from layer to layer of %s than hidden states: each batch reads all", kind)
    return shelf.walks


class Walk:
    """Batches at the entry of the first layer, with all that the layers are given besides; walked once."""

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Batch],
        module: nn.Module,
        start: Start | None = None,
        fork: bool = False,
    ) -> None:
        """Args:
        module: what is called with a batch.
        fork: takes only so many batches that their states have room as often as there are layers.
        """
        self.layers, self.module, self.model = decoder_layers(model), module, model
        self.first = 0 if start is None else start[0]
        self.calls: list[list[Call]] = []
        self.inputs: list[dict[str, Tensor]] = []
        self.forms: Forms = {}
        shelf = shelf_of(model)
        assert shelf is not None
        self.room = Room(unwrap(model).device, shelf.scratch, shelf.room)
        entry: list[Tensor] = []
        for n, batch in enumerate(batches):
            self.inputs.append(_read(model, batch))
            state, calls = at_entry(model, module, self.inputs[-1], self.forms)
            self.calls.append(calls)
            entry.append(state if start is None else start[1][n])
            if fork and (n + 2) * len(self.layers) * state.nbytes > self.room.size:
                break
        self.states = self.room.of(entry)

    def through(
        self, said: str | None = None, until: int | None = None
    ) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """Takes the batches through all layers, or the one at `until` and all before it.

        Yields i, the batch, and its states before and after.
        """
        every = range(self.first, len(self.layers) if until is None else until + 1)
        for i in every if said is None else with_progress(every, said):
            for n in range(len(self.inputs)):
                before = self.states[n]
                after = self.calls[n][i](self.layers[i], before)
                yield i, n, before, after
                self.states[n] = after

    def without_each(self, said: str) -> Iterator[tuple[int, int, ModelOutput]]:
        """The batch, i and the decoder's output without layer i, for each layer that is not skipped."""
        without: dict[int, States] = {}
        gone = skipped_layers(self.model)
        there = [i for i in range(len(self.layers)) if i not in gone]
        for i in with_progress(there, said, [1.0 + place for place in range(len(there))]):
            forks = [self.states, *without.values()]
            without[i] = self.room.of(self.states[n].clone() for n in range(len(self.inputs)))
            for states in forks:
                for n in range(len(states)):
                    states[n] = self.calls[n][i](self.layers[i], states[n])
        for i in reversed(there):
            for n in range(len(self.inputs)):
                yield n, i, self.output(n, without[i][n])

    def output(self, n: int, state: Tensor) -> ModelOutput:
        """What `module` makes of the state behind the last layer."""
        last = self.layers[len(self.layers) - 1]
        with skipped(self.model, range(len(self.layers)), self.forms), replaced_input(last, state):
            return self.module(**self.inputs[n], use_cache=False)


@torch.no_grad()
def at_entry(
    model: nn.Module, module: nn.Module, inputs: dict[str, Tensor], forms: Forms | None = None
) -> tuple[Tensor, list[Call]]:
    """What enters the first layer, [B, T, d], and what each of them is called with; none computes.

    Args:
        module: what is called with the inputs.
        forms: as for `skipped`.
    """
    given: dict[int, tuple[Tensor, Call]] = {}

    def enter(i: int, args: tuple, kwargs: dict) -> None:
        hidden = layer_input(args, kwargs)
        given[i] = hidden.clone() if i == 0 else hidden, Call.of(args, kwargs)

    layers = decoder_layers(model)
    with ExitStack() as stack, skipped(model, range(len(layers)), forms):
        for i, layer in enumerate(layers):
            handle = layer.register_forward_pre_hook(
                lambda _, args, kwargs, i=i: enter(i, args, kwargs), with_kwargs=True
            )
            stack.callback(handle.remove)
        module(**inputs, use_cache=False)
    return given[0][0], [given[i][1] for i in range(len(layers))]


def _read(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """What a model is called with; labels are left out."""
    return {key: value.to(unwrap(model).device) for key, value in batch.items() if key != "labels"}


@torch.no_grad()
def _stand_alone(model: nn.Module, batch: Batch) -> bool:
    """Whether layers called one by one compute what the model's own pass does."""
    try:
        walk = Walk(model, [batch], unwrap(model).base_model)
        own = _beside(walk)
    except OSError:  # the disk's, not the model's
        raise
    except Exception:  # whatever a layer raises that misses what others hand on to it
        return False
    real = walk.inputs[0]["attention_mask"].bool()
    walked, own = walk.states[0][real].nan_to_num(), own[real].nan_to_num()  # of a damaged model too
    return bool((walked - own).norm() <= TOLERANCE * own.norm())


def _beside(walk: Walk) -> Tensor:
    """The states behind the last layer of the model's own pass; `walk` takes each layer with it."""
    own: list[Tensor] = []

    def leave(i: int, output: Any) -> None:
        own[:] = [hidden_state(output).clone()]
        handles[i].remove()  # it would see the call below
        walk.states[0] = walk.calls[0][i](walk.layers[i], walk.states[0])

    handles = [
        layer.register_forward_hook(lambda _, __, output, i=i: leave(i, output))
        for i, layer in enumerate(walk.layers)
    ]
    try:
        walk.module(**walk.inputs[0], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return own[0]
