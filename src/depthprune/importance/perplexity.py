"""Perplexity without a layer (Shortened LLaMA, arXiv:2402.02834): how badly the model misses it."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

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
    scores_sublayers: ClassVar[bool] = True
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

    def score_sublayers(
        self, model: "nn.Module", batches: Batches, gone: Sequence[int], sides: "Sequence[Sides]"
    ) -> "Tensor":
        """The same without one attention or MLP more."""
        import torch

        from depthprune.importance.damage import refuse_non_finite
        from depthprune.importance.sublayer_passes import sublayer_means
        from depthprune.model.head import IGNORED, next_tokens, summed_loss

        def loss(batch: "dict[str, Tensor]", output: Any) -> tuple[float, int]:
            targets = next_tokens(batch)
            return summed_loss(model, output, targets), int((targets != IGNORED).sum())

        found = sublayer_means(model, batches, gone, sides, lambda batch: partial(loss, batch), self.metric)
        return refuse_non_finite(self.metric, torch.exp(found).float(), model)
