"""The head on chosen tokens only, in chunks: the logits of a whole batch are never there at once."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput

from depthprune.model.anatomy import decoder, unwrap

# Logits at a time; in float32 64 MB.
_CHUNK_LOGITS = 2**24
IGNORED = -100


def next_tokens(batch: dict[str, Tensor]) -> Tensor:
    """The token to predict at each position, [B, T]; −100 where there is none: on padding, at the end."""
    real = batch["attention_mask"].bool()
    targets = batch.get("labels", batch["input_ids"]).where(real, IGNORED)
    return F.pad(targets[:, 1:], (0, 1), value=IGNORED)


def summed_loss(model: nn.Module, output: ModelOutput, targets: Tensor) -> float:
    """Σ −log p(target) in nats over all positions that have a target.

    Args:
        output: what the model's decoder returned for the batch, with `last_hidden_state` [B, T, d].
        targets: [B, T], as `next_tokens` gives them.
    """
    hidden = output["last_hidden_state"]
    targets = targets.to(hidden.device)
    wanted = targets != IGNORED
    hidden, targets = hidden[wanted], targets[wanted]
    size = max(1, _CHUNK_LOGITS // unwrap(model).get_output_embeddings().weight.shape[0])
    total = torch.zeros((), dtype=torch.float64)
    for states, tokens in zip(hidden.split(size), targets.split(size), strict=True):
        logits = _logits(model, output, states, tokens)
        total += F.cross_entropy(logits, tokens.to(logits.device), reduction="sum").cpu()
    return float(total)


def summed_sample_losses(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Σ over the samples of each one's mean cross-entropy; a mean over the batch would weigh by length."""
    device = unwrap(model).device
    inputs = {key: batch[key].to(device) for key in ("input_ids", "attention_mask")}
    logits = model(**inputs, use_cache=False).logits
    targets = next_tokens(batch).to(logits.device)
    losses = F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    counted = (targets != IGNORED).sum(dim=1).clamp(min=1)
    return (losses.view_as(targets).sum(dim=1) / counted).sum()


def _logits(model: nn.Module, output: ModelOutput, hidden: Tensor, tokens: Tensor) -> Tensor:
    """float32 [N, V] of hidden states [N, d], by the model's own forward: it may scale or cap its logits."""
    inner = unwrap(model)
    replaced = dataclasses.replace(output, last_hidden_state=hidden[None])  # type: ignore[type-var]
    with _returning(decoder(model), replaced):
        return inner(input_ids=tokens[None], use_cache=False).logits[0].float()


@contextmanager
def _returning(module: nn.Module, output: Any) -> Iterator[None]:
    """Inside the block the module computes nothing and returns this."""
    module.forward = lambda *args, **kwargs: output
    try:
        yield
    finally:
        del module.forward
