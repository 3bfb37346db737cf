"""What is measured follows from the rows: choices, completions, or text."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depthprune.data.examples import Examples
from depthprune.evaluation.choices import choice_accuracy
from depthprune.evaluation.generation import completion_overlap
from depthprune.evaluation.loss import completion_loss, text_loss
from depthprune.evaluation.measurement import Measurement


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
) -> list[Measurement]:
    """Measures `model`, which stays as it is, on the first `limit` rows (windows, for text) of `examples`.

    Rows with `choices`: accuracy. Rows with a completion: exact match and ROUGE-L of greedy generation, and the
    loss of the completions. Text: loss and perplexity over non-overlapping windows of `max_length` tokens, by
    default the model's context, at most 2048.
    """
    if limit is not None and examples.kind != "text":
        examples = replace(examples, rows=examples.rows.select(range(min(limit, len(examples.rows)))))
    length = max_length or context_length(model, tokenizer)
    with _evaluating(model):
        if examples.kind == "text":
            return text_loss(model, tokenizer, examples, batch_size, length, limit)
        if examples.has_choices:
            return [choice_accuracy(model, tokenizer, examples, batch_size, length)]
        return [
            *completion_overlap(
                model, tokenizer, examples, batch_size, length, max_new_tokens, chat_template
            ),
            completion_loss(model, tokenizer, examples, batch_size, length, chat_template),
        ]


def context_length(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, at_most: int = 2048) -> int:
    """The tokens that model and tokenizer both take, at most `at_most`; some families (Bloom) state no limit."""
    config = model.config.get_text_config()
    stated = getattr(config, "max_position_embeddings", None) or at_most
    return min(stated, tokenizer.model_max_length, at_most)


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)
