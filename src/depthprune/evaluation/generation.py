"""Exact match and ROUGE-L of what the model writes after a prompt."""

import re

from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depthprune.cost import with_progress
from depthprune.data.batches import token_batches
from depthprune.data.examples import Examples
from depthprune.data.tokens import encode_answers
from depthprune.evaluation.bert_score import bert_scores
from depthprune.evaluation.logprobs import batch_tokens
from depthprune.evaluation.measurement import Measurement
from depthprune.model.generation import continuations, decoding, fitted


class _Words(Tokenizer):
    """ROUGE's own words (lower case, letters and digits), in every script and not only in ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


def completion_overlap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    batch_size: int,
    length: int,
    max_new_tokens: int,
    chat_template: str | None = None,
    bert_score: tuple[str, int | None] | None = None,
) -> list[Measurement]:
    """`text_overlap` of what greedy decoding writes with the completions, each the mean over the rows.

    With `bert_score`, a model and one of its layers, BERTScore's F1 too.

    Both are decoded from tokens, the completions from those that training learns: a chat template may write
    more of an answer than its content.
    """
    encoded = encode_answers(examples, tokenizer, chat_template)
    written = generate(
        model, tokenizer, [prompt for prompt, _ in encoded], batch_size, length, max_new_tokens
    )
    wanted = [str(tokenizer.decode(ids, skip_special_tokens=True)) for _, ids in encoded]
    overlap = text_overlap(written, wanted)
    if bert_score is not None:
        overlap["bert_score"] = bert_scores(written, wanted, *bert_score, str(model.device))
    return [Measurement.mean(examples.name, metric, values) for metric, values in overlap.items()]


def text_overlap(written: list[str], wanted: list[str]) -> dict[str, list[float]]:
    """For each pair of texts, in [0, 1]: `exact_match`, and `rougeL` (F measure, no stemming).

    In an exact match every run of white space counts as one space and none at the ends; case counts.
    """
    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    pairs = list(zip(written, wanted, strict=True))
    return {
        "exact_match": [float(one.split() == other.split()) for one, other in pairs],
        "rougeL": [float(scorer.score(other, one)["rougeL"].fmeasure) for one, other in pairs],
    }


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    batch_size: int,
    length: int,
    max_new_tokens: int,
) -> list[str]:
    """The texts that greedy decoding writes after each prompt, in the order of `prompts`.

    Prompt and text share `length` tokens: a long prompt loses its beginning, but at most half of `length` is
    kept for the text.
    """
    prompts, new_tokens = fitted(prompts, tokenizer, length, max_new_tokens)
    settings = decoding(model, tokenizer, new_tokens)
    texts = [""] * len(prompts)
    lengths = [len(ids) + new_tokens for ids in prompts]
    grouped = token_batches(lengths, batch_tokens(model, batch_size, max(lengths, default=1)))
    for indices in with_progress(grouped, "generation"):
        written = continuations(model, [prompts[i] for i in indices], settings)
        for i, ids in zip(indices, written, strict=True):
            texts[i] = str(tokenizer.decode(ids, skip_special_tokens=True))
    return texts
