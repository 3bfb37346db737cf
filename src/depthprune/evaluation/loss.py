"""Loss and perplexity."""

import logging
import math
from dataclasses import replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depthprune.data.examples import Examples
from depthprune.data.split import spread
from depthprune.data.tokens import Row, encode, encode_documents, opening, windows
from depthprune.errors import UserError
from depthprune.evaluation.logprobs import target_logprobs
from depthprune.evaluation.measurement import Measurement

log = logging.getLogger("depthprune")

TEXT_TOKENS = 65_536


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
    `limit` windows are measured, spread evenly over the text, by default as many as hold about 65 536 tokens;
    where that leaves some out it is logged. The standard error counts windows.
    """
    bos = opening(tokenizer)
    cut = [window for ids in encode_documents(examples, tokenizer) for window in windows(ids, length, bos)]
    cut = [window for window in cut if len(window) > 1]
    rows: list[Row] = [{"input_ids": window} for window in cut]
    if not rows:
        raise UserError(f"{examples.source}: no text long enough to predict a token of it; give more text")
    rows = _chosen(rows, limit, examples.name)
    loss = Measurement.ratio(examples.name, "loss", *_token_losses(model, tokenizer, rows, batch_size))
    loss = replace(loss, of=len(cut) if len(rows) < len(cut) else None)
    perplexity = math.exp(min(loss.value, 700.0))  # beyond it no float holds it
    # The delta method: d exp(x) = exp(x) dx.
    stderr = None if loss.stderr is None else perplexity * loss.stderr
    return [loss, replace(loss, metric="perplexity", value=perplexity, stderr=stderr, rows=None)]


def _chosen(rows: list[Row], limit: int | None, name: str) -> list[Row]:
    """`limit` rows, or as many as hold about `TEXT_TOKENS` tokens: a whole book would take a CPU hours."""
    mean = sum(len(row["input_ids"]) for row in rows) / len(rows)
    chosen = spread(len(rows), math.ceil(TEXT_TOKENS / mean) if limit is None else limit)
    if limit is None and len(chosen) < len(rows):
        log.info(
            "%s: measured on %d of its %d windows (evaluation.limit=%d for all)",
            name,
            len(chosen),
            len(rows),
            len(rows),
        )
    return [rows[i] for i in chosen]


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
    return Measurement.ratio(examples.name, "loss", *_token_losses(model, tokenizer, rows, batch_size))


def _token_losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[Row], batch_size: int
) -> tuple[list[float], list[float]]:
    """Of each row the summed negative log-likelihood of its learned tokens, and their number."""
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
    return [-float(row.sum()) for row in logprobs], [float(len(row)) for row in logprobs]
