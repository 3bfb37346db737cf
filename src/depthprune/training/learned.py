"""The logits behind the tokens that training learns, and no others."""

from typing import Any

import torch
from torch import Tensor, nn

from depthprune.data.batches import IGNORED
from depthprune.model.anatomy import lm_head


def learned_tokens(row: dict[str, list[int]]) -> int:
    """How many tokens of an encoded row have a loss: all but the first, or those of the completion."""
    mask = row.get("completion_mask")
    return len(row["input_ids"]) - 1 if mask is None else sum(mask[1:])


def learned_logits(model: nn.Module, batch: dict[str, Tensor], **options: Any) -> tuple[Any, Tensor, Tensor]:
    """(the model's output, float32 logits [N, V], targets [N]) of the N tokens with a label, row by row.

    The head runs at these positions alone, so the prompts' logits take neither time nor memory. `options` go
    to the model.
    """
    labels = batch["labels"][:, 1:]
    learned = labels != IGNORED
    before = torch.nn.functional.pad(learned, (0, 1))  # the position that predicts each of them
    handle = lm_head(model).register_forward_pre_hook(lambda head, args: (args[0][before][None], *args[1:]))
    try:
        output = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False, **options
        )
    finally:
        handle.remove()
    return output, output.logits[0].float(), labels[learned]
