"""Loss and perplexity."""

import math

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depthprune.data.examples import Examples
from depthprune.data.split import spread
from depthprune.data.tokens import Row, encode, encode_documents, opening, windows
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
    """Loss a token, in nats, and perplexity over non-overlapping windows of at most `length` tokens.

    Windows begin anew at each document. Every token is predicted but the first of a window that no BOS opens.
    `limit` windows are spread evenly over the text; the standard error counts windows.
    """
    bos = opening(tokenizer)
    cut = [window for ids in encode_documents(examples, tokenizer) for window in windows(ids, length, bos)]
    rows: list[Row] = [{"input_ids": window} for window in cut if len(window) > 1]
    if not rows:
        raise UserError(f"{examples.source}: no text long enough to predict a token of it; give more text")
    if limit is not None:
        rows = [rows[i] for i in spread(len(rows), limit)]
    loss, stderr = _token_loss(model, tokenizer, rows, batch_size)
    perplexity = math.exp(loss)
    return [
        Measurement(examples.name, "loss", loss, len(rows), stderr),
        Measurement(
            examples.name,
            "perplexity",
            perplexity,
            len(rows),
            None if stderr is None else perplexity * stderr,  # the delta method: d exp(x) = exp(x) dx
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
    """Loss a token, in nats, over the completions and their EOS, as training has it.

    The standard error counts rows.
    """
    rows = list(encode(examples, tokenizer, length, chat_template))
    loss, stderr = _token_loss(model, tokenizer, rows, batch_size)
    return Measurement(examples.name, "loss", loss, len(rows), stderr)


def _token_loss(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[Row], batch_size: int
) -> tuple[float, float | None]:
    """Mean negative log-likelihood of all learned tokens, and its standard error over the rows."""
    sequences = [row["input_ids"] for row in rows]
    learned = [
        [k for k in range(1, len(ids)) if "completion_mask" not in row or row["completion_mask"][k]]
        for row, ids in zip(rows, sequences, strict=True)
    ]
    logprobs = target_logprobs(
        model,
        tokenizer,
        sequences,
        [[k - 1 for k in row] for row in learned],
        [[ids[k] for k in row] for ids, row in zip(sequences, learned, strict=True)],
        batch_size,
    )
    return ratio_and_stderr([-float(row.sum()) for row in logprobs], [float(len(row)) for row in logprobs])
