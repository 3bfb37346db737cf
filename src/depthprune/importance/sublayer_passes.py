"""The model without one attention or MLP, for each of them, and a mean over tokens of what comes out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.cost import with_progress
from depthprune.errors import UserError
from depthprune.importance.base import Batches
from depthprune.model.anatomy import decoder_layers, unwrap
from depthprune.model.resume import without_each_sublayer
from depthprune.model.sublayers import Sides

Batch = dict[str, Tensor]
Measure = Callable[[Any], tuple[float, int]]
"""Of what the decoder returned: a sum over tokens, and their number."""


@torch.no_grad()
def sublayer_means(
    model: nn.Module,
    batches: Batches,
    gone: Sequence[int],
    sides: Sequence[Sides],
    measure: Callable[[Batch], Measure],
    metric: str,
) -> Tensor:
    """The mean of a measure over all tokens without each sublayer, beside those gone: float64 [2L].

    Args:
        measure: called once for each batch, with the whole model.
    """
    sums = torch.zeros(2 * len(decoder_layers(model)), dtype=torch.float64)
    tokens = 0
    for batch in with_progress(batches, metric):
        batch = {key: value.to(unwrap(model).device) for key, value in batch.items()}
        of_output, count = measure(batch), 0
        for sublayer, output in without_each_sublayer(model, batch, gone, sides):
            total, count = of_output(output)
            sums[sublayer] += total
        tokens += count
    if tokens == 0:
        raise UserError(f"{metric}: the calibration batches hold no token to predict; give longer samples")
    return sums / tokens
