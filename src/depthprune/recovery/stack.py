"""The layers of a model on their way to fewer, while a recovery chooses which of them become one."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from depthprune.selection import Plan

Parts = Mapping[int, float]
"""Original layer → its coefficient."""


@dataclass(frozen=True)
class Stack:
    """What each layer that is left is made of.

    Attributes:
        layers: layer that is left → its parts, in original indices, the deepest last.
    """

    depth: int
    layers: Mapping[int, Parts]

    @classmethod
    def whole(cls, depth: int) -> "Stack":
        """Every layer is itself."""
        return cls(depth, {i: {i: 1.0} for i in range(depth)})

    @property
    def left(self) -> list[int]:
        return sorted(self.layers)

    @property
    def removed(self) -> list[int]:
        return [i for i in range(self.depth) if i not in self.layers]

    @property
    def combined(self) -> dict[int, dict[int, float]]:
        """The layers that are no longer what they were."""
        return {
            kept: dict(sorted(parts.items())) for kept, parts in sorted(self.layers.items()) if len(parts) > 1
        }

    def combining(self, shares: Parts) -> "Stack":
        """The first of these layers becomes the sum of them all, each as it is now times its share."""
        into = min(shares)
        total: Counter[int] = Counter()
        for layer, share in shares.items():
            for part, coefficient in self.layers[layer].items():
                total[part] += share * coefficient  # type: ignore[assignment]
        left = {layer: parts for layer, parts in self.layers.items() if layer not in shares}
        return Stack(self.depth, {**left, into: dict(total)})

    def plan(self, search: Sequence[dict[str, Any]], notes: Sequence[str]) -> Plan:
        """The plan of a recovery that chose these layers."""
        combined = self.combined
        return Plan(
            self.depth,
            tuple(self.removed),
            selection="by-recovery",
            merged_into={part: kept for kept, parts in combined.items() for part in parts if part != kept},
            notes=tuple(notes),
            combined=combined,
            search=tuple(search),
        )
