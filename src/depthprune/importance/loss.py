"""Loss without a layer (SLEB, arXiv:2402.09025): with iterative selection, greedy search."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.importance.base import Batches
from depthprune.importance.masked import MaskedForward

if TYPE_CHECKING:
    from torch import Tensor, nn

    from depthprune.model.sublayers import Sides


class Loss(MaskedForward):
    """The mean cross-entropy a token, in nats, of the model without layer i.

    Removed layer by layer with all others scored again, these are the paper's redundant blocks.
    """

    paper: ClassVar[str] = "SLEB (arXiv:2402.09025)"
    metric: Literal["loss"] = "loss"

    def __call__(self, model: "nn.Module", batches: Batches) -> "Tensor":
        """Returns a float32 tensor [L] on the CPU; raises as `losses` does."""
        from depthprune.importance.damage import refuse_non_finite

        return refuse_non_finite(self.metric, self.losses(model, batches).float(), model)

    def score_pairs(
        self, model: "nn.Module", batches: Batches, sides: "Sequence[Sides]"
    ) -> "tuple[Tensor, Tensor]":
        """The same without a layer, and without its MLP and the next one's attention."""
        from depthprune.importance.damage import refuse_non_finite

        layers, across = self.pair_losses(model, batches, sides).float()
        return refuse_non_finite(self.metric, layers, model), refuse_non_finite(self.metric, across, model)
