"""Which pairs become one layer, and how: the held-out loss chooses among the ways to make one of two."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from depthprune.cost import progress
from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers, unwrap
from depthprune.model.offloaded import at_hand, set_aside
from depthprune.model.skip import skipped
from depthprune.model.traits import OWN_INDEX
from depthprune.model.walk import outputs
from depthprune.recovery.activations import loss_of, mean_loss
from depthprune.recovery.base import Evidence
from depthprune.recovery.flatten.local import EPOCHS, trained
from depthprune.recovery.flatten.making import Made, Making
from depthprune.recovery.flatten.pair import Pair
from depthprune.recovery.flatten.step import Step
from depthprune.recovery.flatten.stream import Stream
from depthprune.recovery.held_out import split_samples
from depthprune.recovery.places import before_gaps
from depthprune.selection import Plan

Places = tuple[int, int]
Tried = tuple[Step, nn.Module]


class Search:
    """A model on its way to fewer layers; those that are gone are still there, and skipped.

    Attributes:
        removed: the layers that are gone.
        steps: what was done, in order.
        loss: the held-out cross-entropy as it is now.
    """

    def __init__(
        self,
        model: nn.Module,
        evidence: Evidence,
        held_out: float,
        rhos: Sequence[float],
        trains: bool = False,
    ) -> None:
        """With `trains`, one layer trained on the pair is among the candidates."""
        self.model, self.rhos, self.dtype, self.trains = model, rhos, evidence.dtype, trains
        self.layers = decoder_layers(model)
        fit, self.held_out = split_samples(evidence.batches, held_out)
        self.streams = Stream(model, fit), Stream(model, self.held_out)
        self.removed: list[int] = []
        self.steps: list[Step] = []
        self.whole = self.streams[0].whole
        self._ends = _their_own(self.whole)
        self.loss = self._loss_of_whole = mean_loss(model, self.held_out)
        self._refused: dict[Places, str] = {}
        self._tried: dict[Places, list[Tried]] = {}

    @property
    def left(self) -> list[int]:
        return list(self._ends)

    @property
    def standing(self) -> list[int]:
        """The layers that stand for others too, or were made of two."""
        made = {step.kept for step in self.steps if step.how != "cut"}
        return [kept for kept, end in self._ends.items() if end != kept or kept in made]

    def neighbours(self, removable: set[int]) -> list[Places]:
        """The pairs of which a layer may go."""
        return [pair for pair in pairwise(self.left) if set(pair) & removable]

    def makings(self, wanted: Collection[Places]) -> Iterator[Making]:
        """Each of these pairs as it is now, from the first layer on, but for those that cannot be one."""
        fit, held_out = (stream.pairs(self._ends, wanted) for stream in self.streams)
        for (places, fitted), (_, held) in zip(fit, held_out, strict=True):
            with at_hand(*(self.layers[i] for i in places)):
                try:
                    making = Making(Pair(self.model, places, fitted, held), self.rhos, self.dtype)
                except UserError as reason:
                    self._refused[places] = str(reason)
                    continue
                yield making

    def errors(self, wanted: Collection[Places]) -> dict[Places, float]:
        """What making each pair one adds to the error at its output, at least; ∞ where it cannot be one."""
        found = dict.fromkeys(wanted, float("inf"))
        middle = (self.rhos[len(self.rhos) // 2],)
        for making in _told(self.makings(wanted), len(wanted), "pairs of layers, ranked"):
            pair = making.pair
            made = [making.refit(place, middle) for place in (0, 1)]
            # Through a norm a closed form is only a start, and a refit ranks as well for half of the work.
            for heads in pair.origins if making.mlp.after is None else ():
                made += self._flattened(making, heads, (middle, middle))
            found[pair.first, pair.second] = min(one.error for one in made) - pair.drift
        return found

    def _flattened(self, making: Making, *arguments: Any) -> list[Made]:
        """The flattened layer, or none where a pair can only be refitted."""
        try:
            return [making.flatten(*arguments)]
        except UserError as reason:
            self._refused[making.pair.first, making.pair.second] = str(reason)
            return []

    def refusal(self) -> UserError:
        """What to raise where no pair is left that can become one layer."""
        reasons = "; ".join(dict.fromkeys(self._refused.values()))
        return UserError(
            f"no two neighbouring layers of this {unwrap(self.model).config.model_type} can be flattened "
            f"into one ({reasons}): choose another recovery"
        )

    def best(self, wanted: Collection[Places], removable: set[int]) -> Tried:
        """Of all ways to make one layer of one of these pairs, the one with the lowest held-out loss.

        A pair that was among the last ones tried, and behind which alone the model has changed, is what it
        was: its layers are only judged again.
        """
        tried = {places: self._judged_again(places) for places in wanted if places in self._tried}
        fresh = [places for places in wanted if places not in tried]
        for making in _told(self.makings(fresh), len(fresh), "pairs of layers, tried"):
            tried[making.pair.first, making.pair.second] = self._candidates(making, removable)
        if not self.trains:
            self._tried = tried
        found = [one for places in wanted for one in tried.get(places, ())]
        if not found:
            raise self.refusal()
        return min(found, key=lambda one: one[0].loss)

    def _candidates(self, making: Making, removable: set[int]) -> list[Tried]:
        """Every way to make one layer of this pair, and what the model loses with it."""
        pair = making.pair
        before = self.streams[1].before(pair.first, self.left)
        ways = []
        for made, kept in self._ways(making, removable):
            set_aside(made.layer, self.whole[kept])
            ways.append((made, kept))
        if making.has_norms:
            made, kept = min((way for way in ways if way[0].how != "cut"), key=lambda way: way[0].error)
            ways.append((making.refined(made), kept))
            set_aside(ways[-1][0].layer, self.whole[kept])
        found = []
        for made, kept in ways:
            loss = self.loss_with((pair.first, pair.second), made.layer, kept, before)
            found.append((Step.of(pair, made, kept, loss), made.layer))
        if self.trains:
            starts = _of_each_kind(sorted(found, key=lambda tried: tried[0].loss))
            found += [self._trained(making, *start, before) for start in starts]
        return found

    def _judged_again(self, places: Places) -> list[Tried]:
        before = self.streams[1].before(places[0], self.left)
        return [
            (replace(step, loss=self.loss_with(places, layer, step.kept, before)), layer)
            for step, layer in self._tried[places]
        ]

    def _trained(
        self,
        making: Making,
        step: Step,
        layer: nn.Module,
        before: Sequence[torch.Tensor],
        epochs: int = EPOCHS,
    ) -> Tried:
        """A step whose layer is trained further."""
        pair = making.pair
        places = pair.first, pair.second
        layer, best = trained(
            layer, pair, step.heads, lambda one: self.loss_with(places, one, step.kept, before), epochs
        )
        error = making.error(layer, step.heads)
        loss = self.loss_with(places, layer, step.kept, before)
        return replace(step, epochs=best, error=error, loss=loss), layer

    def again(self, recorded: dict[str, Any]) -> Tried:
        """A step that a search recorded, made again on the same samples."""
        step = Step(**recorded)
        makings = self.makings({(step.first, step.second)})  # which has the pair at hand until it ends
        making = next(makings)
        place, (attention, mlp) = int(step.kept == step.second), step.rho
        if step.how == "cut":
            made = making.cut(place)
        elif step.how in ("map", "refit"):
            assert mlp is not None
            made = making.mended(step.how, place, (mlp,), step.refined)
        else:
            assert mlp is not None and attention is not None
            made = making.flatten(step.heads, ((attention,), (mlp,)), step.refined)
        if not step.epochs:
            return step, made.layer
        before = self.streams[1].before(step.first, self.left)
        return step, self._trained(making, step, made.layer, before, step.epochs)[1]

    def take(self, step: Step, layer: nn.Module) -> None:
        """Makes the step: the layer stands for the pair."""
        set_aside(layer, self.whole[step.kept])
        self.layers[step.kept] = in_place_of(layer, self.whole[step.kept])
        self.removed.append(step.removed)
        self._ends[step.kept] = max(self._ends[step.kept], self._ends.pop(step.removed))
        self.steps.append(step)
        self.loss = step.loss
        self._tried = {places: tried for places, tried in self._tried.items() if places[1] < step.first}

    def cut(self, plan: Plan) -> None:
        """Lets the layers of a plan go; one before a gap stands for all that were in it."""
        ends = before_gaps(plan)
        self.removed = list(plan.removed)
        self._ends = {kept: ends.get(kept, kept) for kept in plan.kept}
        self.loss = mean_loss(self.model, self.held_out, self.removed)
        self._tried.clear()

    def undo(self) -> None:
        """Puts every layer back."""
        for i, layer in enumerate(self.whole):
            self.layers[i] = layer
        self.removed, self.steps = [], []
        self._ends = _their_own(self.whole)
        self.loss = self._loss_of_whole
        self._tried.clear()

    def _ways(self, making: Making, removable: set[int]) -> Iterator[tuple[Made, int]]:
        """(layer, the place where it stands) of every candidate for a pair."""
        pair = making.pair
        places = [place for place in (0, 1) if (pair.second, pair.first)[place] in removable]
        for place in places:
            kept = (pair.first, pair.second)[place]
            for way in (making.cut, making.map, making.refit):
                yield way(place), kept
        for heads in pair.origins:
            # Layers of one kind are the same in either place; else it is that of the layer with the heads.
            place = places[0] if heads == "both" or pair.alike else int(heads == "second")
            if place in places:
                yield from (
                    (made, (pair.first, pair.second)[place]) for made in self._flattened(making, heads)
                )

    def loss_with(self, places: Places, layer: nn.Module, kept: int, before: Sequence[torch.Tensor]) -> float:
        """The held-out loss with this layer for the pair, from the pair's input on."""
        gone = {*self.removed, *places, *range(places[0])} - {kept}
        with (
            standing_in(self.layers, kept, in_place_of(layer, self.whole[kept])),
            skipped(self.model, gone),
            torch.no_grad(),
        ):
            found = outputs(self.model, self.held_out, (kept, before))
            return loss_of(self.model, self.held_out, found)


def _their_own(layers: Sequence[nn.Module]) -> dict[int, int]:
    """Each layer with the last one that it stands for, before anything is gone: itself."""
    return {i: i for i in range(len(layers))}


def _told(makings: Iterator[Making], count: int, description: str) -> Iterator[Making]:
    """The makings, and how much of them is left."""
    with progress(count, description) as advance:
        for making in makings:
            yield making
            advance(1)


def _of_each_kind(tried: Sequence[Tried]) -> list[Tried]:
    """Of a pair's candidates, the best first, the best cut and the best of the others, to train from."""
    kinds = [[one for one in tried if (one[0].how == "cut") == cut] for cut in (True, False)]
    return [kind[0] for kind in kinds if kind]


@contextmanager
def standing_in(layers: nn.ModuleList, i: int, layer: nn.Module) -> Iterator[None]:
    """Inside the block layer i is another one."""
    before = layers[i]
    layers[i] = layer
    try:
        yield
    finally:
        layers[i] = before


def in_place_of(layer: nn.Module, place: nn.Module) -> nn.Module:
    """The layer with the indices of the one whose place it takes."""
    for module, other in zip(layer.modules(), place.modules(), strict=True):
        for name in OWN_INDEX:
            if name in vars(other):
                setattr(module, name, vars(other)[name])
    return layer
