"""Log-probabilities of given tokens, computed only where they are asked for."""

import inspect

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depthprune.data.batches import collate, token_batches
from depthprune.evaluation.progress import with_progress

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
    """
    results: list[torch.Tensor] = [torch.empty(0)] * len(sequences)
    grouped = token_batches([len(ids) for ids in sequences], batch_size * BATCH_ROW)
    for indices in with_progress(grouped, "log-likelihood"):
        needed = sorted({position for i in indices for position in positions[i]})
        logits = _logits_at(model, tokenizer, [sequences[i] for i in indices], needed)
        column = {position: k for k, position in enumerate(needed)}
        for i, row in zip(indices, logits, strict=True):
            logprobs = row[[column[position] for position in positions[i]]].float().log_softmax(-1)
            wanted = torch.tensor(targets[i], device=logprobs.device)
            results[i] = logprobs.gather(-1, wanted[:, None])[:, 0].cpu()
    return results


def _logits_at(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: list[list[int]],
    positions: list[int],
) -> torch.Tensor:
    """The logits [B, len(positions), V] at these positions, the same in every row.

    Most families can apply their head to these alone, which saves time and memory for a large vocabulary.
    """
    batch = collate([{"input_ids": ids} for ids in sequences], tokenizer)
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
    kept = torch.tensor(positions, device=model.device)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        return model(**inputs, use_cache=False, logits_to_keep=kept).logits
    return model(**inputs, use_cache=False).logits[:, kept]
