"""Loss and perplexity."""

import math

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depthprune.data.examples import Examples
from depthprune.data.tokens import encode, encode_document, windows
from depthprune.errors import UserError
from depthprune.evaluation.logprobs import target_logprobs
from depthprune.evaluation.measurement import Measurement, ratio_and_stderr


def text_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    batch_size: int,
    length: int,
    limit: int | None = None,
) -> list[Measurement]:
    """Loss a token and perplexity over the documents' first `limit` non-overlapping windows of `length` tokens.

    Every token is predicted but the first of a window that no BOS opens. The standard error counts windows.
    """
    rows = []
    for text in examples.rows["text"]:
        ids = encode_document(text, tokenizer)
        rows += [{"input_ids": window} for window in windows(ids, length, tokenizer) if len(window) > 1]
    if not rows:
        raise UserError(f"{examples.source}: no text long enough to predict a token of it")
    loss, stderr = _loss(model, tokenizer, rows[:limit], batch_size)
    n = len(rows[:limit])
    perplexity = math.exp(loss)
    return [
        Measurement(examples.name, "loss", loss, n, stderr),
        # The delta method: d exp(x) = exp(x) dx.
        Measurement(
            examples.name, "perplexity", perplexity, n, None if stderr is None else perplexity * stderr
        ),
    ]


def completion_loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    batch_size: int,
    length: int,
    chat_template: str | None = None,
) -> Measurement:
    """Loss a token over the completions and their EOS, as training sees them; the standard error counts rows."""
    rows = list(encode(examples, tokenizer, length, chat_template))
    loss, stderr = _loss(model, tokenizer, rows, batch_size)
    return Measurement(examples.name, "loss", loss, len(rows), stderr)


def _loss(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[dict[str, list[int]]],
    batch_size: int,
) -> tuple[float, float | None]:
    """Mean negative log-likelihood over all learned tokens, weighted by token."""
    rows = sorted(rows, key=lambda row: -len(row["input_ids"]))
    sums, counts = [], []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        learned = [
            [k for k in range(1, len(row["input_ids"])) if row.get("completion_mask", [1] * (k + 1))[k]]
            for row in batch
        ]
        logprobs = target_logprobs(
            model,
            tokenizer,
            [row["input_ids"] for row in batch],
            [[k - 1 for k in ks] for ks in learned],
            [[row["input_ids"][k] for k in ks] for row, ks in zip(batch, learned, strict=True)],
        )
        sums += [-float(row.sum()) for row in logprobs]
        counts += [float(len(row)) for row in logprobs]
    return ratio_and_stderr(sums, counts)
