"""Accuracy on rows with choices, by log-likelihood per character (lm-eval's `acc_norm`)."""

from collections import Counter
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depthprune.data.examples import Examples
from depthprune.data.tokens import encode_choices, keep_end, opening
from depthprune.evaluation.logprobs import target_logprobs
from depthprune.evaluation.measurement import Measurement


@dataclass
class _Input:
    """Tokens to run once, and the choices whose log-likelihoods are read from them."""

    row: int
    ids: list[int]
    prompt_length: int
    choices: list[int] = field(default_factory=list)
    tails: list[list[int]] = field(default_factory=list)

    @property
    def positions(self) -> list[int]:
        return [self.prompt_length - 1 + k for tail in self.tails for k in range(len(tail))]

    @property
    def targets(self) -> list[int]:
        return [token for tail in self.tails for token in tail]


def choice_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    batch_size: int,
    length: int,
) -> Measurement:
    """The share of rows whose completion has the highest Σ log p(token) / characters among the choices.

    Ties go to the earlier choice. A prompt too long for `length` tokens loses some at its beginning, as in
    lm-eval, but keeps the BOS.
    """
    scores = choice_scores(model, tokenizer, examples, batch_size, length)
    hits = []
    for row, row_scores in zip(examples.rows, scores, strict=True):
        best = row_scores.index(max(row_scores))
        hits.append(float(row["choices"][best] == row["completion"]))
    return Measurement.mean(examples.name, "accuracy", hits, majority(examples))


def choice_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    batch_size: int,
    length: int,
) -> list[list[float]]:
    """For each row and choice, its summed log-likelihood in nats over its number of characters."""
    bos = opening(tokenizer)
    encoded = encode_choices(examples, tokenizer)
    inputs = [
        shared
        for row, (prompt, tails) in enumerate(encoded)
        for shared in _shared_inputs(row, keep_end(prompt, length + 1 - max(map(len, tails)), bos), tails)
    ]
    logprobs = target_logprobs(
        model,
        tokenizer,
        [shared.ids for shared in inputs],
        [shared.positions for shared in inputs],
        [shared.targets for shared in inputs],
        batch_size,
    )
    all_choices = examples.rows["choices"][:]
    scores = [[0.0] * len(tails) for _, tails in encoded]
    for shared, found in zip(inputs, logprobs, strict=True):
        parts = found.split([len(tail) for tail in shared.tails])
        for choice, part in zip(shared.choices, parts, strict=True):
            scores[shared.row][choice] = float(part.sum()) / len(all_choices[shared.row][choice])
    return scores


def _shared_inputs(row: int, prompt: list[int], tails: list[list[int]]) -> list[_Input]:
    """The fewest inputs that score every choice: in a causal model a prefix's outputs are the whole's."""
    inputs: list[_Input] = []
    for choice in sorted(range(len(tails)), key=lambda i: -len(tails[i])):
        ids = prompt + tails[choice][:-1]  # the last token is predicted, never read
        shared = next((one for one in inputs if one.ids[: len(ids)] == ids), None)
        if shared is None:
            shared = _Input(row, ids, len(prompt))
            inputs.append(shared)
        shared.choices.append(choice)
        shared.tails.append(tails[choice])
    return inputs


def majority(examples: Examples) -> float:
    """What a constant guess gets: always the same text, or always the same place, whichever is better."""
    texts = Counter(examples.rows["completion"][:])
    places = Counter(row["choices"].index(row["completion"]) for row in examples.rows)
    return max(*texts.values(), *places.values()) / len(examples.rows)
