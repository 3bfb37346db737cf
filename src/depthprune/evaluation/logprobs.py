"""Log-probabilities of given tokens, computed only where they are asked for."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depthprune.cost import with_progress
from depthprune.data.batches import collate, token_batches
from depthprune.errors import UserError
from depthprune.model.anatomy import decoder
from depthprune.model.damage import damage
from depthprune.model.head import token_logprobs
from depthprune.model.memory import affordable_tokens

BATCH_ROW = 512  # tokens that one of `batch_size` sequences stands for


@torch.inference_mode()
def target_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: list[list[int]],
    positions: list[list[int]],
    targets: list[list[int]],
    batch_size: int,
) -> list[torch.Tensor]:
    """For each sequence, log p(targets[k] | its tokens up to positions[k]), in nats: float32 on the CPU.

    A position and its target may stand for another text than the sequence itself: one that begins as it does.
    Raises `UserError` where one is not finite.
    """
    results: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
    lengths = [len(ids) for ids in sequences]
    grouped = token_batches(lengths, batch_tokens(model, batch_size, max(lengths, default=1)))
    sizes = [sum(lengths[i] for i in indices) for indices in grouped]
    for indices in with_progress(grouped, "log-likelihood", sizes):
        batch = collate([{"input_ids": sequences[i]} for i in indices], tokenizer)
        inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
        output = decoder(model)(**inputs, use_cache=False)
        asked = [(row, place) for row, i in enumerate(indices) for place in positions[i]]
        places = {place: k for k, place in enumerate(dict.fromkeys(asked))}
        rows, columns = zip(*places, strict=True)
        found = token_logprobs(
            model,
            output,
            output["last_hidden_state"][list(rows), list(columns)],
            torch.tensor([places[place] for place in asked]),
            torch.tensor([token for i in indices for token in targets[i]]),
        )
        if not found.isfinite().all():
            raise UserError(_not_finite(model))
        for i, part in zip(indices, found.split([len(targets[i]) for i in indices]), strict=True):
            results[i] = part
    return results


def batch_tokens(model: PreTrainedModel, batch_size: int, length: int) -> int:
    """The tokens of a batch: `batch_size` sequences of 512, or fewer where memory would not hold them."""
    return min(batch_size * BATCH_ROW, affordable_tokens(model, length))


def _not_finite(model: PreTrainedModel) -> str:
    name = model.config.name_or_path or model.config.model_type
    reason = damage(model) or (
        "its weights are finite, so the arithmetic overflows: load it with dtype=float32 or bfloat16"
    )
    return f"{name}: log-likelihoods are not finite; {reason}"
