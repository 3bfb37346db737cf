"""Taylor importance (Shortened LLaMA, arXiv:2402.02834): what losing each weight would do to the loss."""

from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.errors import UserError
from depthprune.importance.base import Batches, MetricSettings

if TYPE_CHECKING:
    from torch import Tensor, nn


class Taylor(MetricSettings):
    """s_i = Σ_{W in layer i} Σ |W ⊙ ∂L/∂W|, L the sum over the samples of each one's mean cross-entropy.

    To first order, |w · ∂L/∂w| is what the loss changes by without the weight w. W are the layer's linear
    weights, stacked experts among them; norms, biases and routers, which not every family has, are left out.
    The gradient is summed over all samples before the absolute value is taken. Memory: one gradient of these
    weights, in their dtype.
    """

    needs: ClassVar[Literal["gradients"]] = "gradients"
    takes_offloaded: ClassVar[bool] = False
    paper: ClassVar[str] = "Shortened LLaMA (arXiv:2402.02834)"
    cost: ClassVar[str] = "1 forward and backward pass"
    metric: Literal["taylor"] = "taylor"

    def __call__(self, model: "nn.Module", batches: Batches) -> "Tensor":
        """Returns a float32 tensor [L] on the CPU; the model is left as it was. Skipped layers score 0.

        Raises:
            UserError: no sample has a token to predict, or a score is not finite.
        """
        from depthprune.importance.damage import refuse_non_finite
        from depthprune.importance.taylor_products import summed_products
        from depthprune.model.head import IGNORED, next_tokens

        learnable = [batch for batch in batches if (next_tokens(batch) != IGNORED).any()]
        if not learnable:
            raise UserError(
                "taylor: no calibration sample has a token to predict; give samples of two tokens or more, "
                "with labels that are not all -100"
            )
        return refuse_non_finite(self.metric, summed_products(model, learnable).float(), model)
