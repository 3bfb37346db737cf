"""What the metrics share that compare the residual stream across windows of several layers."""

from abc import abstractmethod
from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.errors import UserError
from depthprune.importance.base import Batches, MetricSettings

if TYPE_CHECKING:
    from torch import Tensor, nn


class WindowMetric(MetricSettings):
    """A distance between what enters layer i and what leaves layer i + n − 1, for every window of n layers.

    One forward pass; memory of 2·L hidden states of one batch.
    """

    needs: ClassVar[Literal["calibration"]] = "calibration"
    cost: ClassVar[str] = "1 forward pass"

    @abstractmethod
    def distance(self, before: "Tensor", after: "Tensor", mask: "Tensor") -> tuple[float, int]:
        """The summed distance of two hidden states [B, T, d], and how many items it sums; mask is [B, T]."""

    def windows(self, model: "nn.Module", batches: Batches, lengths: Collection[int]) -> "dict[int, Tensor]":
        """For each length n the mean distance of every window, float32 [L − n + 1], by its first layer.

        Raises `UserError` without any token, for a length that the model has not, and where a distance is not
        finite.
        """
        import torch

        from depthprune.cost import with_progress
        from depthprune.importance.damage import refuse_non_finite
        from depthprune.model.anatomy import decoder_layers

        depth = len(decoder_layers(model))
        if not all(1 <= length <= depth for length in lengths):
            raise UserError(f"windows of {max(lengths)} layers: this model has {depth}; ask for 1 to {depth}")
        sums = {length: torch.zeros(depth - length + 1, dtype=torch.float64) for length in lengths}
        items = 0
        with torch.inference_mode():
            for batch in with_progress(batches, self.metric):
                items += self._add(sums, model, batch)
        if items == 0:
            raise UserError("the calibration batches hold no token; give at least one batch")
        return {
            length: refuse_non_finite(self.metric, (total / items).float(), model)
            for length, total in sums.items()
        }

    def _add(self, sums: "dict[int, Tensor]", model: "nn.Module", batch: "dict[str, Tensor]") -> int:
        """Adds a batch's distances to `sums`; returns how many items each of them is of."""
        from depthprune.model.hooks import record_layer_io

        stream = record_layer_io(model, batch)
        mask = batch["attention_mask"].bool().to(stream[0][0].device)
        for length, total in sums.items():
            for first in range(len(total)):
                before, after = stream[first][0], stream[first + length - 1][1]
                distance, count = self.distance(before.float(), after.float(), mask)
                total[first] += distance
        return count

    def __call__(self, model: "nn.Module", batches: Batches) -> "Tensor":
        """The distance across each layer alone, float32 [L]."""
        return self.windows(model, batches, [1])[1]
