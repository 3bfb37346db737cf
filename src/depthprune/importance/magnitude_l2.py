"""Magnitude, ΣW² (Shortened LLaMA, Reassessing Layer Pruning): the layers with the smallest weights go."""

from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.importance.magnitude import Magnitude

if TYPE_CHECKING:
    from torch import Tensor


class MagnitudeL2(Magnitude):
    """s_i = ΣW² over all weights of layer i."""

    paper: ClassVar[str] = "Shortened LLaMA (arXiv:2402.02834)"
    metric: Literal["magnitude-l2"] = "magnitude-l2"

    def size(self, block: "Tensor") -> "Tensor":
        return block.square().sum()
