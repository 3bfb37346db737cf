"""The scoring stage: one score per layer, at once or in rounds, after a training run or not → scores.json."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from depthprune.cost import WORTH_SAYING, measured, spoken
from depthprune.distributed.processes import first_does
from depthprune.importance.igia import Igia
from depthprune.importance.magnitude import Magnitude
from depthprune.importance.recorder import GradientRecorder
from depthprune.importance.windows import WindowMetric
from depthprune.model.skip import skipped
from depthprune.model.stored import stored_weights
from depthprune.model.surgery import remove_layers
from depthprune.pipeline.job import Job
from depthprune.pipeline.rounds import Round, in_rounds
from depthprune.pipeline.score_pairs import pair_scorer, pairs_in_rounds
from depthprune.pipeline.score_sublayers import sublayer_scorer, sublayers_in_rounds
from depthprune.pipeline.second_opinion import guarded
from depthprune.recovery.stretch import gap_factors, log_norms, stretched
from depthprune.selection import Contiguous, Iterative
from depthprune.selection.finite import finite
from depthprune.selection.pairs import Cuts
from depthprune.training.base import Start, training_dtype
from depthprune.training.time_left import TimeLeft
from depthprune.training.trainer import sft_trainer, untouched

log = logging.getLogger("depthprune")

Scorer = Callable[[Sequence[int]], dict[str, Any]]
"""Scores the model without the layers given, or the sublayers where pairs of them go: `scores` [L],
`samples`, and what else the metric tells."""


def score(job: Job, digest: str) -> str:
    """Scores every layer by the recipe's metric; a call that was killed goes on with the next round."""
    partial = f"rounds-{digest}.json"
    with measured() as cost:
        found = _scores(job, partial)
    metric = job.recipe.importance.metric
    first_does(lambda: job.folder.write("scores.json", {"metric": metric, **found, **cost}))
    rounds = f" in each of {len(found['rounds'])} rounds" if found["rounds"] else ""
    return f"{metric} over {found['samples']} samples{rounds}"


def _scores(job: Job, partial: str) -> dict[str, Any]:
    """`scores`, `samples` and `rounds` of `scores.json`; finished rounds are kept in the file `partial`."""
    selection = job.recipe.selection
    if isinstance(selection, Iterative):
        guard = selection.keeping(guarded(job))
        rounds = _in_rounds
        if selection.in_pairs or selection.in_sublayers:
            rounds = pairs_in_rounds if selection.in_pairs else sublayers_in_rounds
        return rounds(job, _choose_scorer(job, job.recipe.importance), guard, partial)
    scorer = _choose_scorer(job, job.recipe.importance)
    return {**scorer(()), "rounds": []}


def _choose_scorer(job: Job, metric: Any) -> Scorer:
    if isinstance(metric, Igia):
        return _training_scorer(job, job.settled(metric))
    return _weight_scorer(job, metric) if isinstance(metric, Magnitude) else _scorer(job, metric)


def _weight_scorer(job: Job, metric: Magnitude) -> Scorer:
    """The weights stay what they are as layers go: one reading serves all rounds."""
    weights = stored_weights(str(job.recipe.model), job.inputs.skeleton)
    if weights is None:
        scores = metric(job.load(str(job.recipe.model)))
    else:
        scores = metric.over(weights, job.inputs.num_layers)
    return lambda removed: {"scores": scores.tolist(), "samples": 0}


def _scorer(job: Job, metric: Any) -> Scorer:
    model, batches = job.inputs.skeleton, []
    if metric.needs != "nothing":
        model = job.load(str(job.recipe.model))
        job.recipe.recovery.check(model)
        batches = job.inputs.batches

    samples = sum(len(batch["input_ids"]) for batch in batches)
    if isinstance(job.recipe.selection, Cuts) and job.recipe.selection.in_pairs:
        return pair_scorer(job, metric, model, samples)
    if isinstance(job.recipe.selection, Cuts) and job.recipe.selection.in_sublayers:
        return sublayer_scorer(job, metric, model, samples)
    compensates = isinstance(job.recipe.selection, Iterative) and job.recipe.selection.compensate
    norms = log_norms(model, batches) if compensates else None

    def score(removed: Sequence[int]) -> dict[str, Any]:
        if isinstance(job.recipe.selection, Contiguous) and isinstance(metric, WindowMetric):
            length = job.recipe.selection.window(job.inputs.sizes)
            windows = metric.windows(model, batches, {1, length})
            block = {str(length): windows[length].tolist()}
            return {"scores": windows[1].tolist(), "windows": block, "samples": samples}
        with skipped(model, removed), stretched(model, {} if norms is None else gap_factors(norms, removed)):
            return {"scores": metric(model, batches).tolist(), "samples": samples}

    return score


def _training_scorer(job: Job, metric: Igia) -> Scorer:
    def score(removed: Sequence[int]) -> dict[str, Any]:
        start = Start(str(job.recipe.model), job.dtype, job.training_device, job.recipe.trust_remote_code)
        model = start.load(training_dtype(metric, job.dtype))
        job.recipe.recovery.check(model)
        kept = [i for i in range(job.inputs.num_layers) if i not in removed]
        if removed:
            remove_layers(model, removed)
        recorder = GradientRecorder(metric, _spool(job))
        scratch = job.folder.own / "scoring"
        rows = job.inputs.encoded(metric.max_length)
        with untouched(model):
            told = [recorder, TimeLeft(metric.metric, metric.steps)]
            sft_trainer(model, job.inputs.tokenizer, rows, metric, scratch, job.recipe.seed, told).train()
        batch = metric.per_device_train_batch_size * metric.gradient_accumulation_steps  # of all processes
        scores = torch.zeros(job.inputs.num_layers)
        scores[kept] = recorder.scores()
        return {
            "scores": scores.tolist(),
            "samples": len(recorder.course) * batch,
            "steps": len(recorder.course),
            "course": [step.tolist() for step in recorder.course],
            "scored": sorted(recorder.scored),
        }

    return score


def _spool(job: Job) -> Path | None:
    if not job.recipe.keep_gradients and not job.recipe.recovery.needs_gradients:
        return None
    return first_does(lambda: job.folder.fresh(job.folder.gradients))


def _in_rounds(job: Job, scorer: Scorer, selection: Iterative, partial: str) -> dict[str, Any]:
    """Scores, drops the lowest, and again; a call that was killed goes on with the next round."""
    sizes, metric = job.inputs.sizes, job.recipe.importance.metric

    def next_round(rounds: Sequence[Round]) -> tuple[Round, str] | None:
        removed = [layer for done in rounds for layer in done["removed"]]
        if selection.is_done(removed, sizes):
            return None
        with measured() as cost:
            found = scorer(removed)
        scores = finite(found["scores"], metric)
        lowest = selection.next_layers(scores, removed, sizes)
        left = [None if i in removed else value for i, value in enumerate(scores)]
        spared = _spared(job, scores, removed, lowest)
        round_ = {"removed": lowest, **spared, "scores": left, "samples": found["samples"], **cost}
        return round_, _listed(lowest) + _left(job, [*rounds, round_])

    rounds = in_rounds(job, partial, next_round)
    return {"scores": rounds[0]["scores"], "samples": rounds[0]["samples"], "rounds": rounds}


def _spared(
    job: Job, scores: Sequence[float], removed: Sequence[int], lowest: Sequence[int]
) -> dict[str, list[int]]:
    """The layers that would have gone in this round but for the guard, where there are some."""
    selection = job.recipe.selection
    assert isinstance(selection, Iterative)
    spared = sorted(set(selection.next_layers(scores, removed, job.inputs.sizes)) - set(lowest))
    return {"spared": spared} if spared else {}


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))


def _left(job: Job, rounds: Sequence[dict[str, Any]]) -> str:
    """In words, how long the rounds that are left will take, should each take as long as the last."""
    gone = sum(len(done["removed"]) for done in rounds)
    left = math.ceil((len(job.inputs.rehearsal().removed) - gone) / len(rounds[-1]["removed"]))
    seconds = left * rounds[-1]["seconds"]
    return f"; {left} more, {spoken(seconds)}" if left > 0 and seconds > WORTH_SAYING else ""
