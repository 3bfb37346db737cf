"""Perplexity without a layer (Shortened LLaMA, arXiv:2402.02834): how badly the model misses it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.importance.base import Batches
from depthprune.importance.masked import MaskedForward

if TYPE_CHECKING:
    from torch import Tensor, nn

    from depthprune.model.sublayers import Sides


class Perplexity(MaskedForward):
    """exp of the mean cross-entropy a token of the model without layer i.

    It ranks as `loss` does; higher means the model misses the layer more.
    """

    paper: ClassVar[str] = "Shortened LLaMA (arXiv:2402.02834)"
    metric: Literal["perplexity"] = "perplexity"

    def __call__(self, model: "nn.Module", batches: Batches) -> "Tensor":
        """Returns a float32 tensor [L] on the CPU, each entry at least 1; raises as `losses` does."""
        from depthprune.importance.damage import refuse_non_finite

        return refuse_non_finite(self.metric, self.losses(model, batches).exp().float(), model)

    def score_pairs(
        self, model: "nn.Module", batches: Batches, sides: "Sequence[Sides]"
    ) -> "tuple[Tensor, Tensor]":
        """The same without a layer, and without its MLP and the next one's attention."""
        from depthprune.importance.damage import refuse_non_finite

        layers, across = self.pair_losses(model, batches, sides).exp().float()
        return refuse_non_finite(self.metric, layers, model), refuse_non_finite(self.metric, across, model)
