"""What the metrics share that measure the model without one layer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.errors import UserError
from depthprune.importance.base import Batches, MetricSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from depthprune.model.sublayers import Sides


class MaskedForward(MetricSettings):
    """A loss of the model without layer i, for each layer i.

    One batch at a time keeps what enters each layer, so that the pass without layer i begins behind it: for m
    layers (m + 2)/2m of the layer passes that a pass for each would take.
    """

    needs: ClassVar[Literal["calibration"]] = "calibration"
    scores_pairs: ClassVar[bool] = True
    cost: ClassVar[str] = "about L/2 forward passes"

    def losses(self, model: "nn.Module", batches: Batches) -> "Tensor":
        """The mean cross-entropy a target token, in nats, of the model without each layer, float64 [L].

        Labels are honoured, padding never counts. Layers that are skipped already stay at 0.

        Raises:
            UserError: the batches hold no token to predict.
        """
        return self.pair_losses(model, batches, ())[0]

    def pair_losses(self, model: "nn.Module", batches: Batches, sides: "Sequence[Sides]") -> "Tensor":
        """As `losses`, and where there are sides without each pair that lies across two layers: [2, L]."""
        import torch

        from depthprune.model.anatomy import decoder_layers, unwrap
        from depthprune.model.head import IGNORED, next_tokens, summed_loss
        from depthprune.model.walk import without_each

        sums = torch.zeros(2, len(decoder_layers(model)), dtype=torch.float64)
        device = unwrap(model).device
        batches = [{key: value.to(device) for key, value in batch.items()} for batch in batches]
        targets = [next_tokens(batch) for batch in batches]
        tokens = sum(int((target != IGNORED).sum()) for target in targets)
        with torch.inference_mode():
            for n, i, across, output in without_each(model, batches, sides, self.metric):
                sums[int(across), i] += summed_loss(model, output, targets[n])
        if tokens == 0:
            raise UserError(
                f"{self.metric}: the calibration batches hold no token to predict; give samples of two "
                "tokens or more, with labels that are not all -100"
            )
        return sums / tokens
