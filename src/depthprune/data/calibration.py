"""Calibration samples: the few batches that importance metrics and recoveries look at."""

import random
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from depthprune.data.batches import Batch, batches
from depthprune.data.examples import Examples
from depthprune.data.tokens import Row, encode, encode_documents, opening, window_step
from depthprune.errors import UserError


def calibration_batches(
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    samples: int = 128,
    length: int = 128,
    batch_size: int = 8,
    seed: int = 0,
    chat_template: str | None = None,
) -> list[Batch]:
    """`samples` seeded samples of at most `length` tokens, in batches of at most `batch_size`.

    Each batch has `input_ids`, `attention_mask` and `labels`, [B, T] and int64, as `batches` makes them.
    Text: windows of exactly `length` tokens, drawn without overlap from all documents joined by EOS, each
    opened by the tokenizer's BOS where it has one. Rows with a completion: seeded rows, cut at `length`.
    Raises `UserError` when the data hold fewer than `samples`, saying how many they hold.
    """
    is_text = examples.kind == "text"
    rows = (
        _windows(examples, tokenizer, length)
        if is_text
        else list(encode(examples, tokenizer, length, chat_template))
    )
    if len(rows) < samples:
        raise UserError(
            f"{examples.source}: {samples} calibration samples asked for and only {len(rows)} "
            f"{'windows of' if is_text else 'rows that fit into'} {length} tokens there; ask for fewer or "
            "shorter samples, or give more data"
        )
    random.Random(seed).shuffle(rows)
    return list(batches(rows[:samples], tokenizer, batch_size))


def some_rows(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    samples: int,
    length: int,
    batch_size: int,
    seed: int,
) -> list[Batch]:
    """Batches of `samples` seeded rows at most, each cut at `length` tokens; rows of one token go."""
    drawn = random.Random(seed).sample(range(len(rows)), min(samples, len(rows)))
    cut: list[Row] = [{"input_ids": rows[i]["input_ids"][:length]} for i in drawn]
    return list(batches([row for row in cut if len(row["input_ids"]) > 1], tokenizer, batch_size))


def first_samples(samples: Sequence[Batch], count: int) -> list[Batch]:
    """The first `count` samples of some batches, which come shuffled."""
    found = []
    for batch in samples:
        here = min(count, len(batch["input_ids"]))
        count -= here
        if here:
            found.append({key: value[:here] for key, value in batch.items()})
    return found


def _windows(examples: Examples, tokenizer: PreTrainedTokenizerBase, length: int) -> list[Row]:
    bos = opening(tokenizer)
    step = window_step(length, bos)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    stream = [token for ids in encode_documents(examples, tokenizer) for token in (*ids, *end)]
    last = len(stream) - step
    return [{"input_ids": bos + stream[start : start + step]} for start in range(0, last + 1, step)]
