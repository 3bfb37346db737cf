"""Contiguous selection (UIDL, arXiv:2403.17887): one block of neighbouring layers goes."""

from typing import Any, ClassVar, Literal

from depthprune.errors import UserError
from depthprune.selection.base import ByScores, Sizes
from depthprune.selection.finite import finite
from depthprune.selection.plan import Plan, resolve_layers


class Contiguous(ByScores):
    """Remove the block of K layers with the smallest distance; ties go to the deeper block.

    The distance is that of the whole block where the metric measures windows, else the sum of its layers'
    scores. With `keep_first` the block measured is one layer longer, and its first layer stays.
    """

    paper: ClassVar[str] = "UIDL (arXiv:2403.17887)"
    method: Literal["contiguous"] = "contiguous"
    keep_first: bool = False
    """Leave the first layer of a block of K + 1, for a recovery that makes it stand for the whole block."""

    def plan(self, found: dict[str, Any], sizes: Sizes) -> Plan:
        """The best block, by `windows` of scores.json where it is there, else by `scores`."""
        window, metric = self.window(sizes), found["metric"]
        if "windows" in found:
            distances = finite(found["windows"][str(window)], metric)
        else:
            scores = finite(found["scores"], metric)
            distances = [sum(scores[i : i + window]) for i in range(len(scores) - window + 1)]
        first = min(self._open(window, sizes), key=lambda i: (distances[i], -i))
        removed = tuple(self._going(first, window))
        return Plan(sizes.num_layers, removed, metric=metric, selection=self.method)

    def rehearse(self, sizes: Sizes) -> Plan:
        """The deepest block that may go."""
        window = self.window(sizes)
        return Plan(sizes.num_layers, tuple(self._going(self._open(window, sizes)[-1], window)))

    def length(self, sizes: Sizes) -> int:
        """K, the number of layers that go."""
        return self.how_many(self.candidates([0.0] * sizes.num_layers), sizes)

    def window(self, sizes: Sizes) -> int:
        """The length of the block that is measured: K layers, or K + 1 where the first of them stays."""
        return self.length(sizes) + self.keep_first

    def _going(self, first: int, window: int) -> range:
        return range(first + self.keep_first, first + window)

    def _open(self, window: int, sizes: Sizes) -> list[int]:
        """The first layers of the blocks of which no protected layer goes."""
        depth = sizes.num_layers
        staying = set(resolve_layers(self.protect, depth, "selection.protect"))
        firsts = [i for i in range(depth - window + 1) if staying.isdisjoint(self._going(i, window))]
        if not firsts:
            raise UserError(
                f"no {window - self.keep_first} neighbouring layers of {depth} are free of protected ones: "
                "protect fewer layers or remove fewer"
            )
        return firsts
