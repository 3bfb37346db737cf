"""Gradient norms (GradMAP, arXiv:2602.14649): how strongly the loss pulls at each layer's weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from depthprune.importance.base import Batches, MetricSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from depthprune.model.sublayers import Sides


class GradientNorm(MetricSettings):
    """s_i = (1/N) Σ_j Σ_{θ in layer i} ‖∂CE(x^j)/∂θ‖₂ (eq. 7 of the paper), θ over all tensors of the layer.

    The norm is taken per tensor and per sample, norms, biases and routers included; CE is a sample's mean
    over its target tokens (the paper sums over them, which ranks alike at equal lengths). Exact, from batched
    passes with the weights frozen. Fused and stacked weights count as one tensor: between unlike layers of a
    hybrid model the scores depend on that layout.
    """

    needs: ClassVar[Literal["gradients"]] = "gradients"
    paper: ClassVar[str] = "GradMAP (arXiv:2602.14649)"
    cost: ClassVar[str] = "1 forward and backward pass"
    scores_pairs: ClassVar[bool] = True
    metric: Literal["gradient-norm"] = "gradient-norm"
    batch_size: int | None = Field(None, ge=1)
    """Samples a pass. By default as many as fit the memory that a loop over samples would take; one where
    layers are offloaded."""
    gradient_checkpointing: bool | None = None
    """Recompute activations in the backward pass. By default where one sample's would take more than that."""

    def __call__(self, model: "nn.Module", batches: Batches) -> "Tensor":
        """Returns a float32 tensor [L] on the CPU; the model is left as it was.

        Raises:
            UserError: no sample has a target token, or a gradient is not finite.
        """
        from depthprune.importance.gradient_passes import GradientPasses

        return GradientPasses(self.batch_size, self.gradient_checkpointing)(model, batches)

    def score_pairs(
        self, model: "nn.Module", batches: Batches, sides: "Sequence[Sides]"
    ) -> "tuple[Tensor, Tensor]":
        """The sums over the tensors of a layer, and over those of its MLP and the next one's attention."""
        from depthprune.importance.gradient_passes import GradientPasses
        from depthprune.model.skip import skipped_layers
        from depthprune.model.sublayers import both_sides

        passes = GradientPasses(self.batch_size, self.gradient_checkpointing)
        sums = passes(model, batches, both_sides(model, sides)).view(-1, 2)
        there = [i for i in range(len(sums)) if i not in skipped_layers(model)]
        across = sums[:, 1].clone()
        across[there[:-1]] += sums[there[1:], 0]
        return sums.sum(dim=1), across
