"""Scores of pairs of neighbouring sublayers, at once or in rounds."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from depthprune.cost import measured
from depthprune.model.skip import skipped
from depthprune.model.sublayers import recomposed
from depthprune.pipeline.job import Job
from depthprune.pipeline.rounds import Round, in_rounds
from depthprune.selection import Iterative
from depthprune.selection.finite import finite
from depthprune.selection.pairs import Pair, gone_in, spoken, stack


def pair_scorer(
    job: Job, metric: Any, model: nn.Module, samples: int
) -> Callable[[Sequence[int]], dict[str, Any]]:
    """Scores the model without the sublayers given: `scores` [L] and `across` [L]."""
    sides = job.inputs.sides

    def score(gone: Sequence[int]) -> dict[str, Any]:
        removed, mlp_from = stack(job.inputs.num_layers, gone)
        with recomposed(model, mlp_from, sides), skipped(model, removed):
            layers, across = metric.score_pairs(model, job.inputs.batches, sides)
        return {"scores": layers.tolist(), "across": across.tolist(), "samples": samples}

    return score


def pairs_in_rounds(
    job: Job, scorer: Callable[[Sequence[int]], dict[str, Any]], selection: Iterative, partial: str
) -> dict[str, Any]:
    """As the rounds of layers: scores, drops the lowest pair, and again on the layers that are left."""
    sizes, metric, depth = job.inputs.sizes, job.recipe.importance.metric, job.inputs.num_layers
    zeros = [0.0] * depth

    def next_round(rounds: Sequence[Round]) -> tuple[Round, str] | None:
        gone = gone_in(rounds)
        if not selection.next_pairs(zeros, zeros, gone, sizes, selection.step):
            return None
        with measured() as cost:
            found = scorer(gone)
        scores, across = (finite(found[name], metric) for name in ("scores", "across"))
        taken = selection.next_pairs(scores, across, gone, sizes, selection.step)
        round_ = {**_round(depth, gone, taken), **_left(depth, gone, scores, across), **cost}
        return round_, spoken([pair for _, pair in taken])

    rounds = in_rounds(job, partial, next_round)
    first = rounds[0]
    samples = sum(len(batch["input_ids"]) for batch in job.inputs.batches)
    return {"scores": first["scores"], "across": first["across"], "samples": samples, "rounds": rounds}


def _round(depth: int, gone: Sequence[int], taken: Sequence[tuple[float, Pair]]) -> dict[str, Any]:
    """The pairs that go, their scores, and the layers that are no more."""
    before, _ = stack(depth, gone)
    after, _ = stack(depth, [*gone, *(sublayer for _, pair in taken for sublayer in pair)])
    return {
        "removed": [i for i in after if i not in before],
        "pairs": [list(pair) for _, pair in taken],
        "chosen": [score for score, _ in taken],
    }


def _left(
    depth: int, gone: Sequence[int], scores: Sequence[float], across: Sequence[float]
) -> dict[str, Any]:
    """The scores, null where there is no such layer, or no layer after it."""
    removed, _ = stack(depth, gone)
    last = max(i for i in range(depth) if i not in removed)
    return {
        "scores": [None if i in removed else score for i, score in enumerate(scores)],
        "across": [None if i in removed or i == last else score for i, score in enumerate(across)],
    }
