"""Calibration samples: the few batches that importance metrics and recoveries look at."""

import random
from itertools import islice

from transformers import PreTrainedTokenizerBase

from depthprune.data.batches import Batch, batches
from depthprune.data.examples import Examples
from depthprune.data.tokens import encode, encode_document, opening
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
    """`samples` seeded samples of at most `length` tokens, as batches of `input_ids`, `attention_mask`, `labels`.

    Text: windows of exactly `length` tokens, drawn without overlap from all documents joined by EOS, each opened
    by the tokenizer's BOS where it has one. Rows with a completion: seeded rows, cut at `length` tokens.
    Raises `UserError` when the data hold fewer than `samples`, saying how many they hold.
    """
    if examples.kind == "text":
        rows = _windows(examples, tokenizer, length)
    else:
        rows = list(encode(examples, tokenizer, length, chat_template))
    if len(rows) < samples:
        what = f"windows of {length} tokens" if examples.kind == "text" else f"rows within {length} tokens"
        raise UserError(
            f"{examples.source}: {len(rows)} {what} for calibration, fewer than the {samples} asked for; "
            f"give more data or set calibration samples to {len(rows)} or fewer"
        )
    random.Random(seed).shuffle(rows)
    return list(batches(islice(rows, samples), tokenizer, batch_size))


def _windows(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, length: int
) -> list[dict[str, list[int]]]:
    bos = opening(tokenizer)
    step = length - len(bos)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    stream: list[int] = []
    for text in examples.rows["text"]:
        stream += encode_document(text, tokenizer) + end
    whole = len(stream) - len(stream) % step
    return [{"input_ids": bos + stream[start : start + step]} for start in range(0, whole, step)]
