"""The residual stream of the whole and of the shallower model on calibration samples."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder, decoder_layers, unwrap
from depthprune.model.head import IGNORED, next_tokens, summed_loss
from depthprune.model.hooks import for_each_layer_io, hidden_state
from depthprune.model.skip import skipped
from depthprune.recovery.down_projection import DownProjection, widened
from depthprune.recovery.states import Batch, on_device


def layer_output(model: nn.Module, i: int, batch: Batch, removed: Collection[int] = ()) -> Tensor:
    """h_{i+1} of the real tokens, [tokens, d], of the model without the `removed` layers."""
    found: list[Tensor] = []
    ((inputs, real),) = on_device(model, [batch])
    layers = decoder_layers(model)
    handle = layers[i].register_forward_hook(lambda _, __, out: found.append(hidden_state(out).clone()))
    try:
        # Nothing after layer i is needed.
        with skipped(model, {*removed, *range(i + 1, len(layers))}):
            unwrap(model).base_model(**inputs, use_cache=False)
    finally:
        handle.remove()
    return widened(found[0][real])


def output_and_contribution(
    model: nn.Module, down: DownProjection, batch: Batch, removed: Collection[int]
) -> tuple[Tensor, Tensor]:
    """H' and Y of the real tokens, [tokens, d] each: the output, and the down projection's part in it."""
    found: list[Tensor] = []
    with down.recording(found):
        output = layer_output(model, down.layer, batch, removed)
    real = batch["attention_mask"].bool().flatten().to(found[0].device)
    return output, found[0][real]


def mean_outputs(model: nn.Module, batches: Sequence[Batch], removed: Collection[int] = ()) -> Tensor:
    """E[h_{i+1}] over the real tokens, float64 [L, d] on the CPU.

    Raises `UserError` naming the first layer with an output that is not finite.
    """
    depth = len(decoder_layers(model))
    sums: list[Tensor] = [torch.zeros(())] * depth
    tokens = 0
    for inputs, real in on_device(model, batches):
        tokens += int(real.sum())

        def add(i: int, _: Tensor, after: Tensor, real: Tensor = real) -> None:
            sums[i] = sums[i] + after[real].double().sum(0).cpu()

        with skipped(model, removed):
            for_each_layer_io(model, inputs, add)
    means = torch.stack(sums) / tokens
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
        sums = [batch_loss(model, batch) for batch in batches]
    return sum(loss for loss, _ in sums) / sum(tokens for _, tokens in sums)


def batch_loss(model: nn.Module, batch: Batch) -> tuple[float, int]:
    """The cross-entropy summed over the labels of a batch, in nats, and their number."""
    ((inputs, _),) = on_device(model, [batch])
    targets = next_tokens(batch)
    loss = summed_loss(model, decoder(model)(**inputs, use_cache=False), targets)
    return loss, int((targets != IGNORED).sum())
