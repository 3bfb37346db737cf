"""The pipeline: score → select → prune → train (and the baseline) → evaluate → report, resumable."""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from depthprune.cost import measured
from depthprune.errors import UserError, disk_faults_explained
from depthprune.evaluation.harness import Tasks, find_tasks
from depthprune.files import read_object, remove
from depthprune.importance.igia import Igia
from depthprune.pipeline.apart import check_apart
from depthprune.pipeline.arithmetic import settle_arithmetic
from depthprune.pipeline.borrow import borrow
from depthprune.pipeline.digests import digests_of
from depthprune.pipeline.estimate import check_disk
from depthprune.pipeline.evaluate import evaluate, row_of
from depthprune.pipeline.fingerprint import provenance
from depthprune.pipeline.folder import STAGES, RunFolder
from depthprune.pipeline.inputs import load_inputs
from depthprune.pipeline.job import Job
from depthprune.pipeline.memory import give_back
from depthprune.pipeline.prune import prune
from depthprune.pipeline.score import score
from depthprune.pipeline.select import select
from depthprune.pipeline.superseded import set_aside_without_stamps, supersede
from depthprune.pipeline.tasks import keep, row_on_tasks
from depthprune.pipeline.train import answers, baseline, train
from depthprune.recipe.recipe import Recipe
from depthprune.report import environment, write_report

log = logging.getLogger("depthprune")

DOING: dict[str, tuple[Callable[[Job, str], str], Callable[[Job], bool]]] = {
    "score": (score, lambda job: isinstance(job.recipe.importance, Igia)),
    "select": (select, lambda job: False),
    "prune": (prune, lambda job: False),
    "answers": (answers, lambda job: False),
    "train": (train, lambda job: True),
    "baseline": (baseline, lambda job: True),
    "evaluate": (evaluate, lambda job: False),
}
"""Each stage, a function of the job that returns one line about what it did, and whether every process of a
distributed run takes part in it; the main one does the rest alone."""

SCRATCH: dict[str, Callable[[Job], tuple[str, ...]]] = {
    "score": lambda job: ("rounds-*.json", "scoring"),
    "prune": lambda job: () if job.recipe.keep_gradients or job.beside is not None else ("gradients",),
    "select": lambda job: ("steps-*.json",) if job.beside is None else (),
    "answers": lambda job: ("self-data-*.partial",),
    "train": lambda job: ("trainer/train-*",),
    "baseline": lambda job: ("trainer/baseline-*",),
    "evaluate": lambda job: ("eval-*.json",),
}
"""What a stage works with, which goes once it is stamped: a stage that was killed goes on from it."""

UNTIL = tuple(stage for stage in STAGES if stage not in ("answers", "baseline"))


def run(
    recipe: Recipe,
    output: str | Path,
    until: str = "evaluate",
    overwrite: bool = False,
    beside: Sequence[Path] | None = None,
) -> Path:
    """Runs a recipe into the folder `output`, which becomes the pruned model's own, and returns it.

    Stages whose artifacts stand there with the same recipe and data are skipped, so a run that was killed, or
    that ended at an earlier `until`, goes on. What a changed recipe replaces is moved to
    `depthprune/superseded/<date>`, or with `overwrite` deleted. Stages that a run `beside` it has done, of
    the same recipe and data, are taken from there, and what others could take from this one stays. Under
    `accelerate launch` or torchrun every process calls this.

    Raises:
        UserError: whatever is wrong with the recipe, model, data or disk; a folder made by this call goes
            again.
    """
    if until not in UNTIL:
        raise UserError(f"--until {until}: the stages are {', '.join(UNTIL)}")
    folder = RunFolder(output)
    with disk_faults_explained():
        check_apart(recipe, folder.root)
        folder.check()
        inputs = load_inputs(recipe, until)
        check_disk(inputs, folder.root)
        # Said, for on a machine without accelerator torchrun's processes would not know of each other.
        state = PartialState(cpu=not torch.accelerator.is_available())
        arithmetic = settle_arithmetic(inputs, folder, state)
        job = Job(inputs, folder, state, arithmetic, None if beside is None else tuple(beside))
        with folder.in_use() if job.state.is_main_process else nullcontext():
            _run_stages(job, until, overwrite)
    return folder.root


def evaluate_model(recipe: Recipe, tasks: Tasks | None = None) -> dict[str, Any]:
    """The recipe's model on its evaluation data, in the form of `eval.json`, and on lm-eval's `tasks`.

    Writes nothing, but for the result of tasks into the run folder that the model is, if it is one: `kept`
    is then its path.
    """
    model = str(recipe.model)
    found = None if tasks is None else find_tasks(tasks, model)
    inputs, state = load_inputs(recipe), PartialState()
    row: dict[str, Any] = {}
    if tasks is not None and found is not None:
        row = row_on_tasks(inputs, state, tasks, found)
        give_back()
    if inputs.evals:
        job = Job(inputs, RunFolder("."), state, settle_arithmetic(inputs, None, state))
        row = {**row, **row_of(job, model)}
        del row["per_row"]
    evaluation = {"rows": {Path(model).name: row}}
    kept = None if tasks is None else keep(model, evaluation)
    return evaluation if kept is None else {**evaluation, "kept": str(kept)}


def _run_stages(job: Job, until: str, overwrite: bool) -> None:
    digests = digests_of(job, job.recipe)
    asked = STAGES[: STAGES.index(until) + 1] if until != "train" else STAGES[: STAGES.index("baseline") + 1]
    if job.state.is_main_process:
        set_aside_without_stamps(job.folder)
        job.folder.sweep()
        borrow(job, digests)
    job.state.wait_for_everyone()
    todo = [stage for stage in digests if stage in asked and not _is_done(job, stage, digests, asked)]
    for stage in digests:
        if stage in asked and stage not in todo:
            log.info("%-8s already done", stage)
    job.state.wait_for_everyone()
    if job.state.is_main_process:
        _prepare(job, digests, todo, overwrite)
    job.state.wait_for_everyone()
    for stage in todo:
        _run_stage(job, stage, digests[stage])
    if job.state.is_main_process:
        if "train" in asked and job.beside is None:  # what a killed training would go on with
            remove(job.folder.teacher)
        write_report(job.folder.root)


def _prepare(job: Job, digests: dict[str, str], todo: list[str], overwrite: bool) -> None:
    """Puts the folder in order: what the recipe replaces goes aside, what a kill left undone is done."""
    supersede(job.folder, digests, todo, overwrite)
    job.folder.begin(digests, todo)
    for stage in digests:
        if stage not in todo and job.folder.is_done(stage, digests[stage]):
            job.folder.clean(SCRATCH[stage](job))
    job.folder.write("recipe.yaml", job.recipe.located().as_yaml())
    if todo or read_object(job.folder.own / "environment.json") is None:
        found = {"sources": provenance(job.inputs), "arithmetic": job.arithmetic.to_json()}
        job.folder.write("environment.json", {**environment(), **found})


def _run_stage(job: Job, stage: str, digest: str) -> None:
    do, everyone = DOING[stage]
    if everyone(job) or job.state.is_main_process:
        log.info("%-8s …", stage)
        with measured() as cost:
            note = do(job, digest)
        if job.state.is_main_process:
            job.folder.finish(stage, digest, cost)
            job.folder.clean(SCRATCH[stage](job))
            log.info("%-8s %s (%.1f s)", stage, note, cost["seconds"])
    job.state.wait_for_everyone()
    give_back()


def _is_done(job: Job, stage: str, digests: dict[str, str], asked: Sequence[str]) -> bool:
    done = job.folder.is_done(stage, digests[stage])
    if stage == "score" and job.recipe.recovery.needs_gradients and "prune" in asked:
        # The gradients go once the layers are merged; another plan has to record them again.
        return done and (job.folder.is_done("prune", digests["prune"]) or job.folder.gradients.is_dir())
    return done
