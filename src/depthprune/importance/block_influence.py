"""Block influence (ShortGPT, arXiv:2403.03853): how far a layer turns the residual stream."""

from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.errors import UserError
from depthprune.importance.base import Batches, MetricSettings

if TYPE_CHECKING:
    import torch


class BlockInfluence(MetricSettings):
    """1 − E_t[cos(h_i[t], h_{i+1}[t])] over the real tokens of the calibration samples (eq. 1 of the paper).

    Higher means the layer changes its input more. One forward pass.
    """

    needs: ClassVar[Literal["calibration"]] = "calibration"
    paper: ClassVar[str] = "ShortGPT (arXiv:2403.03853)"
    cost: ClassVar[str] = "1 forward pass"
    metric: Literal["block-influence"] = "block-influence"

    def __call__(self, model: "torch.nn.Module", batches: Batches) -> "torch.Tensor":
        """Returns a float32 tensor [L], each entry in [0, 2]."""
        import torch
        import torch.nn.functional as F

        from depthprune.cost import with_progress
        from depthprune.importance.damage import refuse_non_finite
        from depthprune.model.anatomy import decoder_layers
        from depthprune.model.hooks import record_layer_io

        turned = torch.zeros(len(decoder_layers(model)), dtype=torch.float64)
        tokens = 0
        with torch.inference_mode():
            for batch in with_progress(batches, self.metric):
                real = batch["attention_mask"].bool()
                for i, (before, after) in enumerate(record_layer_io(model, batch)):
                    cosine = F.cosine_similarity(before.float(), after.float(), dim=-1)
                    turned[i] += (1 - cosine)[real.to(cosine.device)].sum().cpu()
                tokens += int(real.sum())
        if tokens == 0:
            raise UserError("block-influence: the calibration batches hold no token; give at least one batch")
        return refuse_non_finite(self.metric, (turned / tokens).float(), model)
