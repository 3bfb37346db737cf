"""Padded batches of encoded rows."""

from collections.abc import Iterable, Iterator

import torch
from transformers import PreTrainedTokenizerBase

Batch = dict[str, torch.Tensor]

IGNORED = -100  # the label that cross-entropy in PyTorch and transformers leaves out


def batches(
    rows: Iterable[dict[str, list[int]]],
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int = 8,
    by_length: bool = False,
) -> Iterator[Batch]:
    """Batches of `input_ids`, `attention_mask` and `labels`, each [B, T] and int64, padded on the right.

    `rows` are those of `encode`. Labels are −100 on padding and wherever `completion_mask` is 0; they are not
    shifted, as transformers wants them. `by_length` puts rows of like length together, longest first, so that
    a batch too large for memory fails at once.
    """
    ordered = list(rows)
    if by_length:
        ordered.sort(key=lambda row: -len(row["input_ids"]))
    for start in range(0, len(ordered), batch_size):
        yield collate(ordered[start : start + batch_size], tokenizer)


def collate(rows: list[dict[str, list[int]]], tokenizer: PreTrainedTokenizerBase) -> Batch:
    """One batch of the given rows, as `batches` describes it."""
    shape = (len(rows), max(len(row["input_ids"]) for row in rows))
    input_ids = torch.full(shape, padding_id(tokenizer))
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for i, row in enumerate(rows):
        ids = torch.tensor(row["input_ids"])
        learned = torch.tensor(row.get("completion_mask", [1] * len(ids))).bool()
        input_ids[i, : len(ids)] = ids
        attention_mask[i, : len(ids)] = 1
        labels[i, : len(ids)] = ids.where(learned, torch.tensor(IGNORED))
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def token_batches(lengths: list[int], budget: int) -> list[list[int]]:
    """Indices of sequences of these lengths, longest first, in batches of at most `budget` tokens.

    Padding counts. A sequence longer than the budget is a batch by itself.
    """
    grouped: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if grouped and (len(grouped[-1]) + 1) * lengths[grouped[-1][0]] <= budget:
            grouped[-1].append(i)
        else:
            grouped.append([i])
    return grouped


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token to pad with. Without a pad token any will do, as the attention mask hides it."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return token_id
    return 0
