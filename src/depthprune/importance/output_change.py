"""Change of the output (FinerCut, arXiv:2405.18218): how far the predictions move without a sublayer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from depthprune.errors import UserError
from depthprune.importance.base import Batches, MetricSettings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from depthprune.model.sublayers import Sides


class OutputChange(MetricSettings):
    """E_t[JS(p_t, q_t)]: p are the whole model's predictions, q those without a sublayer and all gone before.

    JS is the Jensen–Shannon divergence over the vocabulary, in nats. It scores attentions and MLPs, for
    `selection.granularity=sublayers`.
    """

    needs: ClassVar[Literal["calibration"]] = "calibration"
    scores_sublayers: ClassVar[bool] = True
    paper: ClassVar[str] = "FinerCut (arXiv:2405.18218)"
    cost: ClassVar[str] = "about L forward passes"
    metric: Literal["output-change"] = "output-change"

    def __call__(self, model: "nn.Module", batches: Batches) -> "Tensor":
        """Refused: it scores no layers."""
        raise UserError("output-change scores attentions and MLPs: set selection.granularity=sublayers")

    def score_sublayers(
        self, model: "nn.Module", batches: Batches, gone: Sequence[int], sides: "Sequence[Sides]"
    ) -> "Tensor":
        """Returns a float32 tensor [2L] on the CPU, each entry in [0, log 2]."""
        from depthprune.importance.damage import refuse_non_finite
        from depthprune.importance.sublayer_passes import sublayer_means
        from depthprune.model.anatomy import decoder
        from depthprune.model.head import chunked_logits

        def measure(batch: "dict[str, torch.Tensor]") -> Any:
            inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
            real = batch["attention_mask"].bool()
            whole = decoder(model)(**inputs, use_cache=False)

            def moved(output: Any) -> tuple[float, int]:
                pairs = zip(
                    chunked_logits(model, whole, whole["last_hidden_state"][real]),
                    chunked_logits(model, output, output["last_hidden_state"][real]),
                    strict=True,
                )
                return sum(float(divergence(one, other).sum()) for (_, one), (_, other) in pairs), int(
                    real.sum()
                )

            return moved

        found = sublayer_means(model, batches, gone, sides, measure, self.metric)
        return refuse_non_finite(self.metric, found.float(), model)


def divergence(one: "Tensor", other: "Tensor") -> "Tensor":
    """JS of the distributions behind two sets of logits [N, V], [N]."""
    import math

    logs = one.log_softmax(-1), other.log_softmax(-1)
    middle = logs[0].logaddexp(logs[1]) - math.log(2)
    return sum(0.5 * (log.exp() * (log - middle)).sum(-1) for log in logs)  # type: ignore[return-value]
