"""How long tuning and measuring will take, by their first batches on the whole model."""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from depthprune.compare.grid import Cell
from depthprune.data.examples import Examples
from depthprune.errors import UserError
from depthprune.evaluation.evaluate import evaluate
from depthprune.evaluation.loss import TEXT_TOKENS
from depthprune.pipeline.arithmetic import settle_arithmetic
from depthprune.pipeline.folder import RunFolder
from depthprune.pipeline.inputs import load_inputs
from depthprune.pipeline.job import Job
from depthprune.pipeline.memory import give_back
from depthprune.training import FineTuning, Start
from depthprune.training.trainer import fine_tune

log = logging.getLogger("depthprune")

WARM, ROWS, STEPS = 2, 8, 3
"""Rows before the clock runs and while it does; steps, of which the first does not count."""


def seconds_at_least(cells: Sequence[Cell], found: Sequence[Mapping[str, Any]]) -> float | None:
    """What tuning and measuring take in these runs; None where that cannot be tried.

    A step or pass of a pruned model is taken to cost its share of the whole model's matrix products. Not
    counted: loading and saving, choosing the layers, repairs, what a teacher predicts or answers.

    Args:
        found: of each run what `estimate` says.
    """
    steps: dict[str | None, float] = {None: 0.0}
    passes: dict[str, float] = {}
    total = 0.0
    try:
        for cell, one in zip(cells, found, strict=True):
            measured = cell.recipe.evaluation.model_dump_json()
            if measured not in passes:
                passes[measured] = _pass_seconds(_job(cell))
                total += passes[measured]  # of the whole model, untuned
            if cell.tuning not in steps:
                steps[cell.tuning] = _step_seconds(_job(cell))
            # The bare cut, and the tuned model.
            times = int(cell.ratio is not None) + int(cell.tuning is not None)
            tuning = one["steps"].get("training", 0) * steps[cell.tuning]
            total += one["remaining"]["cost_share"] * (tuning + times * passes[measured])
    except UserError:
        raise
    except Exception as problem:  # the rest of a dry run stands without it
        log.debug("first batches", exc_info=True)
        log.warning("the time cannot be told: %s", problem)
        return None
    return total


def _job(cell: Cell) -> Job:
    state = PartialState(cpu=not torch.accelerator.is_available())
    inputs = load_inputs(cell.recipe)
    return Job(inputs, RunFolder("."), state, settle_arithmetic(inputs, None))


def _pass_seconds(job: Job) -> float:
    """Of measuring the whole model on all evaluation data."""
    model = job.load(str(job.recipe.model))
    seconds = 0.0
    for examples in job.inputs.evals:
        _timed(job, model, examples, WARM)
        took, share = _timed(job, model, examples, ROWS)
        seconds += took * share
    del model
    give_back()
    return seconds


def _timed(job: Job, model: Any, examples: Examples, rows: int) -> tuple[float, float]:
    """Seconds of these rows, and how many times as many there are to measure."""
    asked = job.recipe.evaluation
    options = {**asked.model_dump(), "limit": rows, "chat_template": job.inputs.chat_template}
    start = time.perf_counter()
    first = evaluate(model, job.inputs.tokenizer, examples, **options)[0]
    took = time.perf_counter() - start
    there = first.of or first.n
    wanted = asked.limit or there
    if examples.kind == "text" and asked.limit is None and first.rows is not None:
        wanted = math.ceil(TEXT_TOKENS / fmean(first.rows[1]))
    return took, min(wanted, there) / first.n


class _Clock(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def _step_seconds(job: Job) -> float:
    """Of a training step of the whole model: its batch, times the batches of a step."""
    assert isinstance(job.recipe.training, FineTuning)
    settings = job.settled(job.recipe.training)
    short = settings.model_copy(
        update={
            "max_steps": STEPS,
            "gradient_accumulation_steps": 1,
            "save_steps": STEPS + 1,
            "loss": "ce",
            "data": "given",
            "report_to": "none",
        }
    )
    start = Start(str(job.recipe.model), job.dtype, job.state.device, job.recipe.trust_remote_code)
    rows, clock = job.inputs.encoded(settings.max_length), _Clock()
    with TemporaryDirectory() as folder:
        fine_tune(start, job.inputs.tokenizer, rows, short, Path(folder), job.recipe.seed, [clock])
    give_back()
    return settings.gradient_accumulation_steps * (clock.ends[-1] - clock.ends[0]) / (len(clock.ends) - 1)
