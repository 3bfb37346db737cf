"""What is fitted once more when all steps are taken, for a step could not know of those behind it."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from depthprune.cost import progress
from depthprune.recovery.flatten.making import Made, Making
from depthprune.recovery.flatten.search import Search
from depthprune.recovery.flatten.step import Step


@dataclass(frozen=True)
class Outcome:
    """What is left when a search has ended.

    Attributes:
        layers: those that were made or copied, by their place.
        steps: that led there, none after a bare cut.
        settled: the layers that were fitted once more, ascending.
        loss: the held-out cross-entropy.
    """

    layers: dict[int, nn.Module]
    steps: Sequence[Step]
    settled: list[int]
    loss: float

    @property
    def changed(self) -> list[int]:
        """The layers that are not what they were, ascending."""
        made = {step.kept for step in self.steps if step.how != "cut"} | {*self.settled}
        return sorted(made & {*self.layers})


def settled(search: Search) -> Outcome:
    """Fits what the MLP of each layer that stands for others writes once more, where the held-out loss gains.

    From the first such layer on, to what the whole model gives at the end of what it stands for.
    """
    changed = []
    with progress(len(search.standing), "layers, fitted once more") as advance:
        for kept in search.standing:
            for making in search.makings({(kept, kept)}):
                loss, layer = min(_tried(search, kept, making), key=lambda one: one[0])
                if loss < search.loss:
                    search.layers[kept], search.loss = layer, loss
                    changed.append(kept)
            advance(1)
    layers = {i: search.layers[i] for i in search.left if search.layers[i] is not search.whole[i]}
    return Outcome(layers, tuple(search.steps), changed, search.loss)


def _tried(search: Search, kept: int, making: Making) -> list[tuple[float, nn.Module]]:
    """Every way to fit the layer, with the held-out loss."""
    before = search.streams[1].before(kept, search.left)
    ways = _ways(search, making)
    return [(search.loss_with((kept, kept), made.layer, kept, before), made.layer) for made in ways]


def _ways(search: Search, making: Making) -> list[Made]:
    """The MLP refitted; through a norm with each ρ, for there the error says less of the loss."""
    through = making.has_norms
    strengths = [(rho,) for rho in search.rhos] if through else [tuple(search.rhos)]
    return [making.refit(0, rhos, through) for rhos in strengths]
