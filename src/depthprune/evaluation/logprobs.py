"""Log-probabilities of given tokens, computed only where they are asked for."""

import inspect

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depthprune.data.batches import collate


def target_logprobs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: list[list[int]],
    positions: list[list[int]],
    targets: list[list[int]],
) -> list[torch.Tensor]:
    """For each sequence, log p(targets[k] | tokens up to positions[k]) as float32 on the CPU.

    One forward pass over all `sequences` together; the head and the log-softmax see only the positions that
    some sequence asks for, where the family can do that.
    """
    batch = collate([{"input_ids": ids} for ids in sequences], tokenizer)
    inputs = {name: batch[name].to(model.device) for name in ("input_ids", "attention_mask")}
    needed = sorted({position for row in positions for position in row})
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        kept = torch.tensor(needed, device=model.device)
        logits = model(**inputs, use_cache=False, logits_to_keep=kept).logits
        column = {position: i for i, position in enumerate(needed)}
    else:
        logits = model(**inputs, use_cache=False).logits
        column = {position: position for position in needed}
    results = []
    for i, (row, wanted) in enumerate(zip(positions, targets, strict=True)):
        asked = logits[i, [column[position] for position in row]].float().log_softmax(-1)
        results.append(asked.gather(-1, torch.tensor(wanted, device=asked.device)[:, None])[:, 0].cpu())
    return results
