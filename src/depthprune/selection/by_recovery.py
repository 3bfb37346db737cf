"""Selection by the recovery: it chooses the layers that go while it merges them."""

from collections.abc import Sequence
from typing import Literal

from depthprune.selection.base import Amount, Sizes


class ByRecovery(Amount):
    """The recovery chooses, as LaCo (arXiv:2402.11187) and MKA (arXiv:2406.16330) do; this says how many go.

    Protected layers stay; others may be merged into them.
    """

    method: Literal["by-recovery"] = "by-recovery"

    def missing(self, removed: Sequence[int], sizes: Sizes) -> int:
        """How many layers are to go yet, beside those `removed` already."""
        order = self.candidates([0.0] * sizes.num_layers, removed)
        return max(0, self.how_many(order, sizes, removed))

    def removable(self, sizes: Sizes) -> set[int]:
        """The layers that are not protected."""
        return set(self.candidates([0.0] * sizes.num_layers))
