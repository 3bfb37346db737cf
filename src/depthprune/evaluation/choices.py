"""Accuracy on rows with choices, by log-likelihood per character (lm-eval's `acc_norm`)."""

from collections import Counter
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depthprune.data.examples import Examples
from depthprune.data.tokens import encode_continuations, opening
from depthprune.evaluation.logprobs import target_logprobs
from depthprune.evaluation.measurement import Measurement, mean_and_stderr


@dataclass
class _Sequence:
    """Tokens to run once, and what to read from them: (row, choice, first position, the choice's tokens)."""

    ids: list[int]
    reads: list[tuple[int, int, int, list[int]]] = field(default_factory=list)


def choice_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    batch_size: int,
    length: int,
) -> Measurement:
    """The share of rows whose completion has the highest Σ log p(token) / characters among the choices.

    Ties go to the earlier choice. A prompt too long for `length` loses tokens at its beginning, as in lm-eval,
    but keeps the BOS.
    """
    scores = choice_scores(model, tokenizer, examples, batch_size, length)
    hits = []
    for row, row_scores in zip(examples.rows, scores, strict=True):
        best = max(range(len(row_scores)), key=lambda i: row_scores[i])
        hits.append(float(row["choices"][best] == row["completion"]))
    value, stderr = mean_and_stderr(hits)
    return Measurement(examples.name, "accuracy", value, len(hits), stderr, majority(examples))


def choice_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    batch_size: int,
    length: int,
) -> list[list[float]]:
    """For each row and choice, its summed log-likelihood in nats over its number of characters."""
    sequences = []
    for i, row in enumerate(examples.rows):
        sequences += _sequences(i, row["prompt"], row["choices"], tokenizer, length)
    sequences.sort(key=lambda sequence: -len(sequence.ids))
    scores = [[0.0] * len(choices) for choices in examples.rows["choices"]]
    for start in range(0, len(sequences), batch_size):
        batch = sequences[start : start + batch_size]
        positions = [[first + k for _, _, first, ids in s.reads for k in range(len(ids))] for s in batch]
        targets = [[token for _, _, _, ids in s.reads for token in ids] for s in batch]
        for sequence, logprobs in zip(
            batch, target_logprobs(model, tokenizer, [s.ids for s in batch], positions, targets), strict=True
        ):
            sizes = [len(ids) for _, _, _, ids in sequence.reads]
            for (row, choice, _, _), part in zip(sequence.reads, logprobs.split(sizes), strict=True):
                scores[row][choice] = float(part.sum()) / len(examples.rows[row]["choices"][choice])
    return scores


def _sequences(
    row: int, prompt: str, choices: list[str], tokenizer: PreTrainedTokenizerBase, length: int
) -> list[_Sequence]:
    """The fewest inputs that score every choice: in a causal model, a prefix's outputs are the longer one's."""
    prompt_ids, tails = encode_continuations(prompt, choices, tokenizer)
    room = length + 1 - max(len(tail) for tail in tails)
    if len(prompt_ids) > room:
        bos = opening(tokenizer)
        prompt_ids = bos + prompt_ids[len(prompt_ids) - (room - len(bos)) :]
    sequences: list[_Sequence] = []
    for choice in sorted(range(len(tails)), key=lambda i: -len(tails[i])):
        ids = prompt_ids + tails[choice][:-1]
        home = next((s for s in sequences if s.ids[: len(ids)] == ids), None)
        if home is None:
            home = _Sequence(ids)
            sequences.append(home)
        home.reads.append((row, choice, len(prompt_ids) - 1, tails[choice]))
    return sequences


def majority(examples: Examples) -> float:
    """What a constant guess gets: always the same text, or always the same place, whichever is better."""
    texts = Counter(examples.rows["completion"])
    places = Counter(row["choices"].index(row["completion"]) for row in examples.rows)
    return max(*texts.values(), *places.values()) / len(examples.rows)
