"""Scores of attentions and MLPs one by one, at once or in rounds."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from depthprune.cost import measured
from depthprune.pipeline.job import Job
from depthprune.pipeline.rounds import Round, in_rounds
from depthprune.selection import Iterative
from depthprune.selection.finite import finite
from depthprune.selection.pairs import gone_in, named


def sublayer_scorer(
    job: Job, metric: Any, model: nn.Module, samples: int
) -> Callable[[Sequence[int]], dict[str, Any]]:
    """Scores without the sublayers given: `attention` [L], `mlp` [L]; `scores` are the lower of the two."""

    def score(gone: Sequence[int]) -> dict[str, Any]:
        found = metric.score_sublayers(model, job.inputs.batches, gone, job.inputs.sides)
        return {**_by_side(found.tolist(), gone), "samples": samples}

    return score


def sublayers_in_rounds(
    job: Job, scorer: Callable[[Sequence[int]], dict[str, Any]], selection: Iterative, partial: str
) -> dict[str, Any]:
    """Scores, drops the lowest sublayer, and again on what is left."""
    sizes, metric = job.inputs.sizes, job.recipe.importance.metric
    zeros = [0.0] * (2 * sizes.num_layers)

    def next_round(rounds: Sequence[Round]) -> tuple[Round, str] | None:
        gone = gone_in(rounds)
        if not selection.next_sublayers(zeros, gone, sizes, selection.step):
            return None
        with measured() as cost:
            found = scorer(gone)
        pairs = zip(found["attention"], found["mlp"], strict=True)
        scores = [0.0 if score is None else score for pair in pairs for score in pair]
        taken = selection.next_sublayers(finite(scores, metric), gone, sizes, selection.step)
        went = {part // 2 for part in taken if {part, part ^ 1} <= {*gone, *taken}}
        chosen = {"sublayers": taken, "chosen": [scores[part] for part in taken], "removed": sorted(went)}
        return {**chosen, **found, **cost}, ", ".join(map(named, taken))

    rounds = in_rounds(job, partial, next_round)
    first = {name: rounds[0][name] for name in ("scores", "attention", "mlp", "samples")}
    return {**first, "rounds": rounds}


def _by_side(scores: Sequence[float], gone: Sequence[int]) -> dict[str, Any]:
    """Null where the sublayer, or the whole layer, is gone."""
    left = [None if part in gone else score for part, score in enumerate(scores)]
    lower = [
        min((score for score in left[2 * i : 2 * i + 2] if score is not None), default=None)
        for i in range(len(scores) // 2)
    ]
    return {"scores": lower, "attention": left[0::2], "mlp": left[1::2]}
