"""What is measured follows from the rows: choices, completions, or text."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depthprune.data.examples import Examples
from depthprune.data.split import spread
from depthprune.evaluation.choices import choice_accuracy
from depthprune.evaluation.generation import completion_overlap
from depthprune.evaluation.loss import completion_loss, text_loss
from depthprune.evaluation.measurement import Measurement

_TEXT_WINDOW = 2048  # tokens; the longest window that papers of this field report perplexity on


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    *,
    batch_size: int = 16,
    max_length: int | None = None,
    max_new_tokens: int = 64,
    limit: int | None = None,
    chat_template: str | None = None,
    bert_score: str | None = None,
    bert_score_layer: int | None = None,
) -> list[Measurement]:
    """Measures `model`, which stays as it is, on `examples`, or on `limit` rows spread evenly over them.

    Rows with `choices`: accuracy. Other rows with a completion: exact match and ROUGE-L of greedy generation
    of at most `max_new_tokens`, with `bert_score` (a model, read at `bert_score_layer`) its BERTScore, and
    the loss of the completions. Text: loss and perplexity over non-overlapping windows of `max_length` tokens
    (`limit` then counts windows), by default the model's context, at most 2048; without a limit about 65 536
    tokens in all are measured. `batch_size` counts sequences of 512 tokens; shorter ones go more together,
    longer ones fewer, and all fewer where memory is short, which changes results by rounding only.
    """
    length = max_length or context_length(model, tokenizer)
    by = None if bert_score is None else (bert_score, bert_score_layer)
    with _evaluating(model):
        if examples.kind == "text":
            window = max_length or min(length, _TEXT_WINDOW)
            return text_loss(model, tokenizer, examples, batch_size, window, limit)
        total = len(examples.rows)
        if limit is not None:
            examples = examples.select(spread(total, limit))
        measured = _on_rows(model, tokenizer, examples, batch_size, length, max_new_tokens, chat_template, by)
    return [replace(one, of=total) for one in measured] if len(examples.rows) < total else measured


def _on_rows(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    batch_size: int,
    length: int,
    max_new_tokens: int,
    chat_template: str | None,
    bert_score: tuple[str, int | None] | None,
) -> list[Measurement]:
    if examples.has_choices:
        return [choice_accuracy(model, tokenizer, examples, batch_size, length)]
    # First, for a damaged model is found out here, and its texts would only be odd.
    loss = completion_loss(model, tokenizer, examples, batch_size, length, chat_template)
    overlap = completion_overlap(
        model, tokenizer, examples, batch_size, length, max_new_tokens, chat_template, bert_score
    )
    return [*overlap, loss]


def context_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The tokens that both model and tokenizer take; families without positions (Bloom) state no limit."""
    stated = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return min(stated or _TEXT_WINDOW, tokenizer.model_max_length)


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
