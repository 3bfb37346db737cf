"""The residual stream of the whole and of the shallower model on calibration samples."""

from collections.abc import Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers
from depthprune.model.head import IGNORED, next_tokens, summed_loss
from depthprune.model.skip import skipped
from depthprune.model.walk import after_layer, each_layer_io, outputs
from depthprune.recovery.down_projection import DownProjection, widened
from depthprune.recovery.states import Batch, on_device


def layer_outputs(
    model: nn.Module, i: int, batches: Sequence[Batch], removed: Collection[int] = ()
) -> Iterator[Tensor]:
    """h_{i+1} of the real tokens, [tokens, d], of the model without the `removed` layers, of each batch."""
    masks = [real for _, real in on_device(model, batches)]
    with skipped(model, removed):
        for real, output in zip(masks, after_layer(model, i, batches), strict=True):
            yield widened(output[real.to(output.device)])


def outputs_and_contributions(
    model: nn.Module, down: DownProjection, batches: Sequence[Batch], removed: Collection[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """H' and Y of the real tokens of each batch, [tokens, d] each: the output, and the down projection's
    part in it."""
    found: list[Tensor] = []
    with down.recording(found):
        for batch, output in zip(batches, layer_outputs(model, down.layer, batches, removed), strict=True):
            contribution = found.pop()
            real = batch["attention_mask"].bool().flatten().to(contribution.device)
            yield output, contribution[real]


def mean_outputs(model: nn.Module, batches: Sequence[Batch], removed: Collection[int] = ()) -> Tensor:
    """E[h_{i+1}] over the real tokens, float64 [L, d] on the CPU.

    Raises `UserError` naming the first layer with an output that is not finite.
    """
    sums: list[Tensor] = [torch.zeros(())] * len(decoder_layers(model))
    masks = [real for _, real in on_device(model, batches)]

    def add(n: int, i: int, _: Tensor, after: Tensor) -> None:
        sums[i] = sums[i] + after[masks[n].to(after.device)].double().sum(0).cpu()

    with skipped(model, removed):
        each_layer_io(model, batches, add)
    means = torch.stack(sums) / sum(int(real.sum()) for real in masks)
    finite = means.isfinite().all(dim=1)
    if not finite.all():
        first = int(finite.logical_not().nonzero()[0])
        which = "the pruned model" if removed else "the model"
        raise UserError(
            f"layer {first} of {which} gives values that are not finite on the calibration samples: "
            "load it with dtype float32 or bfloat16, or look at the weights of that layer"
        )
    return means


@torch.no_grad()
def mean_loss(model: nn.Module, batches: Sequence[Batch], removed: Collection[int] = ()) -> float:
    """Cross-entropy a token over the labels, in nats, of the model without the `removed` layers."""
    with skipped(model, removed):
        return loss_of(model, batches, outputs(model, batches))


def loss_of(model: nn.Module, batches: Sequence[Batch], found: Iterable[ModelOutput]) -> float:
    """Cross-entropy a token over the labels, in nats, of what the decoder has returned for each batch."""
    total, tokens = 0.0, 0
    for batch, output in zip(batches, found, strict=True):
        targets = next_tokens(batch)
        total += summed_loss(model, output, targets)
        tokens += int((targets != IGNORED).sum())
    return total / tokens
