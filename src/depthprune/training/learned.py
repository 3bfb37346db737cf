"""What the head reads of the tokens that training learns, and of no others."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from depthprune.data.batches import IGNORED
from depthprune.model.anatomy import decoder, lm_head


def learned_tokens(row: dict[str, list[int]]) -> int:
    """How many tokens of an encoded row have a loss: all but the first, or those of the completion."""
    mask = row.get("completion_mask")
    return len(row["input_ids"]) - 1 if mask is None else sum(mask[1:])


def learned_states(
    model: nn.Module, batch: dict[str, Tensor], **options: Any
) -> tuple[Any, ModelOutput, Tensor, Tensor]:
    """Of the N tokens with a label, row by row, what the head reads: hidden states [N, d] and targets [N].

    Returns (the model's output, its decoder's, hidden states, targets). The head itself runs on one token a
    row, so that the logits of the rest take neither time nor memory; the logits in that output are of no use.
    `options` go to the model.
    """
    labels = batch["labels"][:, 1:]
    learned = labels != IGNORED
    before = torch.nn.functional.pad(learned, (0, 1))  # the position that predicts each of them
    decoded: list[ModelOutput] = []
    handles = [
        decoder(model).register_forward_hook(lambda _, __, output: decoded.append(output)),
        lm_head(model).register_forward_pre_hook(lambda _, args: (args[0][:, :1], *args[1:])),
    ]
    try:
        output = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **options
        )
    finally:
        for handle in handles:
            handle.remove()
    return output, decoded[0], decoded[0]["last_hidden_state"][before], labels[learned]
