"""Block influence (ShortGPT, arXiv:2403.03853): how far a layer turns the residual stream."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.errors import UserError
from depthprune.importance.base import Batches, MetricSettings

if TYPE_CHECKING:
    import torch

    from depthprune.model.sublayers import Sides


class BlockInfluence(MetricSettings):
    """1 − E_t[cos(h_i[t], h_{i+1}[t])] over the real tokens of the calibration samples (eq. 1 of the paper).

    Higher means the layer changes its input more. One forward pass.
    """

    needs: ClassVar[Literal["calibration"]] = "calibration"
    paper: ClassVar[str] = "ShortGPT (arXiv:2403.03853)"
    cost: ClassVar[str] = "1 forward pass"
    scores_pairs: ClassVar[bool] = True
    metric: Literal["block-influence"] = "block-influence"

    def __call__(self, model: "torch.nn.Module", batches: Batches) -> "torch.Tensor":
        """Returns a float32 tensor [L], each entry in [0, 2]."""
        return self.score_pairs(model, batches, ())[0]

    def score_pairs(
        self, model: "torch.nn.Module", batches: Batches, sides: "Sequence[Sides]"
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """The same from before a layer's MLP to behind the next one's attention; none without sides."""
        import torch
        import torch.nn.functional as F

        from depthprune.cost import with_progress
        from depthprune.importance.damage import refuse_non_finite
        from depthprune.model.anatomy import decoder_layers
        from depthprune.model.between import streams
        from depthprune.model.walk import each_layer_io

        turned = torch.zeros(2, len(decoder_layers(model)), dtype=torch.float64)
        batches = list(batches)
        masks = [batch["attention_mask"].bool() for batch in batches]

        def visit(n: int, i: int, before: torch.Tensor, after: torch.Tensor, across: bool = False) -> None:
            cosine = F.cosine_similarity(before.float(), after.float(), dim=-1)
            turned[int(across), i] += (1 - cosine)[masks[n].to(cosine.device)].sum().cpu()

        with torch.inference_mode():
            if not sides:
                each_layer_io(model, batches, visit, self.metric)
            for n, batch in enumerate(with_progress(batches, self.metric)) if sides else ():
                for across, i, before, after in streams(model, batch, sides):
                    visit(n, i, before, after, across)
        tokens = sum(int(mask.sum()) for mask in masks)
        if tokens == 0:
            raise UserError("block-influence: the calibration batches hold no token; give at least one batch")
        layers, between = (turned / tokens).float()
        return refuse_non_finite(self.metric, layers, model), refuse_non_finite(self.metric, between, model)
