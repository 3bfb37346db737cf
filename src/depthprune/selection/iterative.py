"""Iterative selection: remove the lowest-scored layer, score what is left, and again."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from depthprune.selection.base import Sizes
from depthprune.selection.finite import finite
from depthprune.selection.pairs import Cuts, gone_in, silent_plan, stack
from depthprune.selection.plan import Plan


class Iterative(Cuts):
    """Remove the lowest-scored layers in rounds, each scored without the layers gone before it.

    As GradMAP (arXiv:2602.14649), SLEB (arXiv:2402.09025) and ShortGPT's iterative variant do.
    """

    later: ClassVar[tuple[str, ...]] = (*Cuts.later, "compensate")
    method: Literal["iterative"] = "iterative"
    step: int = Field(1, ge=1)
    """Layers that go in each round; the last round takes what is left."""
    compensate: bool = False
    """Score each round with the residual stream stretched where layers are gone, as the recovery
    `magnitude-compensation` will do it (Prune&Comp, arXiv:2507.18212)."""

    def next_layers(self, scores: Sequence[float], removed: Sequence[int], sizes: Sizes) -> list[int]:
        """The layers that go now, the lowest first; none once enough have gone.

        Args:
            scores: [L] of this round; those of layers already gone are not read.
            removed: the layers that went in the rounds before.
        """
        order = self.candidates(scores, removed)
        return order[: min(self.step, self.how_many(order, sizes, removed))]

    def is_done(self, removed: Sequence[int], sizes: Sizes) -> bool:
        """Whether enough layers have gone."""
        return not self.next_layers([0.0] * sizes.num_layers, removed, sizes)

    def plan(self, found: dict[str, Any], sizes: Sizes) -> Plan:
        """The layers that the rounds removed."""
        for round_ in found["rounds"]:
            finite([score for score in round_["scores"] if score is not None], found["metric"])
        if self.in_pairs:
            removed, mlp_from = stack(sizes.num_layers, gone_in(found["rounds"]))
            return Plan(sizes.num_layers, removed, found["metric"], self.method, mlp_from=mlp_from)
        if self.in_sublayers:
            return silent_plan(sizes.num_layers, gone_in(found["rounds"]), found["metric"], self.method)
        layers = sorted(layer for round_ in found["rounds"] for layer in round_["removed"])
        return Plan(sizes.num_layers, tuple(layers), metric=found["metric"], selection=self.method)
