"""What the metrics share that compare the residual stream across windows of several layers."""

from abc import abstractmethod
from collections.abc import Collection
from typing import ClassVar, Literal

import torch
from torch import Tensor

from depthprune.errors import UserError
from depthprune.importance.base import Batches, MetricSettings
from depthprune.importance.damage import refuse_non_finite
from depthprune.model.anatomy import decoder_layers
from depthprune.model.hooks import record_layer_io


class WindowMetric(MetricSettings):
    """A distance between what enters layer i and what leaves layer i + n − 1, for every window of n layers.

    One forward pass; memory of 2·L hidden states of one batch.
    """

    needs: ClassVar[Literal["calibration"]] = "calibration"
    cost: ClassVar[str] = "1 forward pass"

    @abstractmethod
    def distance(self, before: Tensor, after: Tensor, mask: Tensor) -> tuple[float, int]:
        """The summed distance of two hidden states [B, T, d], and how many items it sums; mask is [B, T]."""

    @torch.inference_mode()
    def windows(
        self, model: torch.nn.Module, batches: Batches, lengths: Collection[int]
    ) -> dict[int, Tensor]:
        """For each length n the mean distance of every window, float32 [L − n + 1], by its first layer.

        Raises `UserError` without any token, for a length that the model has not, and where a distance is not
        finite.
        """
        depth = len(decoder_layers(model))
        if not all(1 <= length <= depth for length in lengths):
            raise UserError(f"windows of {max(lengths)} layers: this model has {depth}; ask for 1 to {depth}")
        sums = {length: torch.zeros(depth - length + 1, dtype=torch.float64) for length in lengths}
        items = 0
        for batch in batches:
            stream = record_layer_io(model, batch)
            mask = batch["attention_mask"].bool().to(stream[0][0].device)
            for length, total in sums.items():
                for first in range(len(total)):
                    before, after = stream[first][0], stream[first + length - 1][1]
                    distance, count = self.distance(before.float(), after.float(), mask)
                    total[first] += distance
            items += count
        if items == 0:
            raise UserError("the calibration batches hold no token; give at least one batch")
        return {
            length: refuse_non_finite(self.metric, (total / items).float(), model)
            for length, total in sums.items()
        }

    def __call__(self, model: torch.nn.Module, batches: Batches) -> Tensor:
        """The distance across each layer alone, float32 [L]."""
        return self.windows(model, batches, [1])[1]
