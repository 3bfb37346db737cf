"""Contiguous selection (UIDL, arXiv:2403.17887): one block of neighbouring layers goes."""

from typing import Any, ClassVar, Literal

from depthprune.errors import UserError
from depthprune.selection.base import Amount, Sizes
from depthprune.selection.one_shot import finite
from depthprune.selection.plan import Plan, resolve_layers


class Contiguous(Amount):
    """Remove the block of K layers with the smallest distance; ties go to the deeper block.

    The distance is that of the whole block where the metric measures windows, else the sum of its layers'
    scores.
    """

    paper: ClassVar[str] = "UIDL (arXiv:2403.17887)"
    method: Literal["contiguous"] = "contiguous"

    def plan(self, found: dict[str, Any], sizes: Sizes) -> Plan:
        """The best block, by `windows` of scores.json where it is there, else by `scores`."""
        count, metric = self.length(sizes), found["metric"]
        if "windows" in found:
            distances = finite(found["windows"][str(count)], metric)
        else:
            scores = finite(found["scores"], metric)
            distances = [sum(scores[i : i + count]) for i in range(len(scores) - count + 1)]
        first = min(self._open(count, sizes), key=lambda i: (distances[i], -i))
        removed = tuple(range(first, first + count))
        return Plan(sizes.num_layers, removed, metric=metric, selection=self.method)

    def rehearse(self, sizes: Sizes) -> Plan:
        """The deepest block that may go."""
        count = self.length(sizes)
        first = self._open(count, sizes)[-1]
        return Plan(sizes.num_layers, tuple(range(first, first + count)))

    def length(self, sizes: Sizes) -> int:
        """K, the number of layers that go."""
        return self.how_many(self.candidates([0.0] * sizes.num_layers), sizes)

    def _open(self, count: int, sizes: Sizes) -> list[int]:
        """The first layers of the blocks that hold no protected one."""
        depth = sizes.num_layers
        staying = set(resolve_layers(self.protect, depth, "selection.protect"))
        firsts = [i for i in range(depth - count + 1) if staying.isdisjoint(range(i, i + count))]
        if not firsts:
            raise UserError(
                f"no {count} neighbouring layers of {depth} are free of protected ones: protect fewer layers "
                "or remove fewer"
            )
        return firsts
