"""Hidden states of the calibration samples: what a recovery compares or learns from."""

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers, unwrap
from depthprune.model.walk import each_layer_io

Batch = dict[str, Tensor]


def on_device(model: nn.Module, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Tensor]]:
    """Each batch without labels, and the mask of its real tokens [B, T], where the model is."""
    device = unwrap(model).device
    for batch in batches:
        inputs = {key: value.to(device) for key, value in batch.items() if key != "labels"}
        yield inputs, inputs["attention_mask"].bool()


@torch.inference_mode()
def final_states(model: nn.Module, batches: Iterable[Batch]) -> list[Tensor]:
    """h_L, what leaves the last layer, before the final norm: the real tokens' [tokens, d] of each batch."""
    last = len(decoder_layers(model)) - 1
    found: list[Tensor] = []
    batches = list(batches)
    masks = [real for _, real in on_device(model, batches)]

    def keep(n: int, i: int, _: Tensor, after: Tensor) -> None:
        if i == last:
            found.append(after[masks[n].to(after.device)].cpu())

    each_layer_io(model, batches, keep)
    return found


@torch.inference_mode()
def sample_means(model: nn.Module, batches: Iterable[Batch], layers: Collection[int]) -> dict[int, Tensor]:
    """For each of these layers its output h_{i+1}, the mean over each sample's real tokens: float32 [N, d].

    Raises `UserError` naming the first layer with a value that is not finite.
    """
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    batches = list(batches)
    weights = [(real / real.sum(dim=1, keepdim=True)).unsqueeze(-1) for _, real in on_device(model, batches)]

    def add(n: int, i: int, _: Tensor, after: Tensor) -> None:
        if i in found:
            found[i].append((after.float() * weights[n].to(after.device)).sum(dim=1).cpu())

    each_layer_io(model, batches, add)
    means = {layer: torch.cat(states) for layer, states in found.items()}
    for layer, states in means.items():
        if not states.isfinite().all():
            raise UserError(
                f"layer {layer} gives values that are not finite on the calibration samples: "
                "try dtype=float32, or look at the weights of that layer"
            )
    return means
