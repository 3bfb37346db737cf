"""The pipeline: score → select → prune → train (and the baseline) → evaluate → report, resumable."""

import logging
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

from depthprune.cost import measured
from depthprune.distributed.processes import check_same, count, first_does, join
from depthprune.distributed.rows import share_of
from depthprune.distributed.sharded import deepspeed_shards, shards, uses_deepspeed
from depthprune.errors import UserError, disk_faults_explained
from depthprune.evaluation.harness import Tasks, find_tasks
from depthprune.files import read_object, remove
from depthprune.importance.igia import Igia
from depthprune.model.arithmetic import Arithmetic
from depthprune.model.published import STAMPS
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
from depthprune.settings import TrainerSettings
from depthprune.training import FineTuning, QLora

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
    folder, state = RunFolder(output), join()
    with disk_faults_explained():
        first_does(lambda: _check_folder(recipe, folder))
        _check_launch(recipe, state)
        inputs = load_inputs(recipe, until)
        first_does(lambda: check_disk(inputs, folder.root))
        arithmetic = settle_arithmetic(inputs, folder)
        job = Job(inputs, folder, state, arithmetic, None if beside is None else tuple(beside))
        digests = digests_of(job, recipe)
        check_same({"model, data or recipe": digests, "command": [until, overwrite]})
        _check_gradients(job, digests)
        with ExitStack() as held:
            first_does(lambda: held.enter_context(folder.in_use()))
            _run_stages(job, digests, until, overwrite)
    return folder.root


def _check_folder(recipe: Recipe, folder: RunFolder) -> None:
    check_apart(recipe, folder.root)
    folder.check()


def _check_launch(recipe: Recipe, state: PartialState) -> None:
    """Raises `UserError` where the processes cannot do the recipe's trainings together."""
    for slot in ("importance", "training"):
        if isinstance(settings := getattr(recipe, slot), TrainerSettings):
            share_of(settings, count(), slot)
    if shards() and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError(
            "depthprune runs under FSDP2, and accelerate is told to use FSDP1: set fsdp_version: 2 under "
            "fsdp_config, as in depthprune/distributed/configs/fsdp2.yaml"
        )
    if deepspeed_shards():
        raise UserError(
            "DeepSpeed's ZeRO-3 leaves each process a part of the weights, which depthprune does not gather: "
            "set zero_stage to 2, or launch with FSDP2"
        )
    if shards() and isinstance(recipe.training, QLora):
        raise UserError(
            "training.method=qlora does not go into FSDP2's shards: launch with DDP, or choose lora"
        )
    if shards() and isinstance(recipe.training, FineTuning) and recipe.training.loss == "distill":
        raise UserError(
            "training.loss=distill calls the head by itself, which FSDP2's shards do not bear: launch with "
            "DDP"
        )
    if shards() and state.distributed_type == DistributedType.MULTI_CPU:
        log.warning("accelerate has no FSDP without an accelerator: DDP is used")


def _check_gradients(job: Job, digests: dict[str, str]) -> None:
    """Raises `UserError` where igia has still to score, and cannot see its gradients."""
    if not uses_deepspeed() or not isinstance(job.recipe.importance, Igia) or "score" not in digests:
        return
    if not first_does(lambda: _is_done(job, "score", digests, STAGES)):
        raise UserError(
            "importance.metric=igia reads gradients, which DeepSpeed keeps to itself: launch with DDP or "
            "FSDP2, or let `depthprune score` do this stage in one process first"
        )


def is_finished(recipe: Recipe, output: str | Path) -> bool:
    """Whether `run` would find all there, of the same recipe and data. Computes and writes nothing.

    Raises:
        UserError: as `run`, for what is wrong with the recipe, model or data.
    """
    inputs, folder = load_inputs(recipe), RunFolder(output)
    stamps = folder.stamps()
    if "evaluate" not in stamps or any(stamp.get("stale") for stamp in stamps.values()):
        return False
    state = join()
    job = Job(inputs, folder, state, Arithmetic(None, "does not matter here"))
    digests = digests_of(job, recipe)
    return all(_is_done(job, stage, digests, STAGES) for stage in digests)


def evaluate_model(recipe: Recipe, tasks: Tasks | None = None) -> dict[str, Any]:
    """The recipe's model on its evaluation data, in the form of `eval.json`, and on lm-eval's `tasks`.

    Writes nothing, but for the result of tasks into the run folder that the model is, if it is one: `kept`
    is then its path.
    """
    model = str(recipe.model)
    found = None if tasks is None else find_tasks(tasks, model)
    inputs, state = load_inputs(recipe), join()
    row: dict[str, Any] = {}
    if tasks is not None and found is not None:
        row = row_on_tasks(inputs, state, tasks, found)
        give_back()
    if inputs.evals:
        job = Job(inputs, RunFolder("."), state, settle_arithmetic(inputs, None))
        row = {**row, **row_of(job, model)}
        del row["per_row"]
    evaluation = {"rows": {Path(model).name: row}}
    kept = None if tasks is None else keep(model, evaluation)
    return evaluation if kept is None else {**evaluation, "kept": str(kept)}


def _run_stages(job: Job, digests: dict[str, str], until: str, overwrite: bool) -> None:
    asked = STAGES[: STAGES.index(until) + 1] if until != "train" else STAGES[: STAGES.index("baseline") + 1]
    for stage in first_does(lambda: _prepare(job, digests, asked, overwrite)):
        _run_stage(job, stage, digests[stage])
    first_does(lambda: _close(job, asked))


def _prepare(job: Job, digests: dict[str, str], asked: Sequence[str], overwrite: bool) -> list[str]:
    """Puts the folder in order: what the recipe replaces goes aside, what a kill left undone is done.

    Returns the stages that are left to do.
    """
    set_aside_without_stamps(job.folder)
    job.folder.sweep()
    borrow(job, digests)
    todo = [stage for stage in digests if stage in asked and not _is_done(job, stage, digests, asked)]
    for stage in digests:
        if stage in asked and stage not in todo:
            log.info("%-8s already done", stage)
    supersede(job.folder, digests, todo, overwrite)
    stamps = job.folder.stamps()
    if "score" in todo and "score" in stamps:  # to be recorded again: half of the gradients is not done
        job.folder.write(STAMPS, {stage: stamp for stage, stamp in stamps.items() if stage != "score"})
    job.folder.begin(digests, todo)
    for stage in digests:
        if stage not in todo and job.folder.is_done(stage, digests[stage]):
            job.folder.clean(SCRATCH[stage](job))
    job.folder.write("recipe.yaml", job.recipe.located().as_yaml())
    if todo or read_object(job.folder.own / "environment.json") is None:
        found = {"sources": provenance(job.inputs), "arithmetic": job.arithmetic.to_json()}
        job.folder.write("environment.json", {**environment(), **found})
    return todo


def _run_stage(job: Job, stage: str, digest: str) -> None:
    do, everyone = DOING[stage]
    log.info("%-8s …", stage)
    with measured() as cost:
        note = do(job, digest) if everyone(job) else first_does(lambda: do(job, digest))
    first_does(lambda: _finish(job, stage, digest, cost))
    log.info("%-8s %s (%.1f s)", stage, note, cost["seconds"])
    give_back()


def _finish(job: Job, stage: str, digest: str, cost: dict[str, Any]) -> None:
    job.folder.finish(stage, digest, cost)
    job.folder.clean(SCRATCH[stage](job))


def _close(job: Job, asked: Sequence[str]) -> None:
    if "train" in asked and job.beside is None:  # what a killed training would go on with
        remove(job.folder.teacher)
    write_report(job.folder.root)


def _is_done(job: Job, stage: str, digests: dict[str, str], asked: Sequence[str]) -> bool:
    done = job.folder.is_done(stage, digests[stage])
    if stage == "score" and job.recipe.recovery.needs_gradients and "prune" in asked:
        # The gradients go once the layers are merged; another plan has to record them again.
        return done and (job.folder.is_done("prune", digests["prune"]) or job.folder.gradients.is_dir())
    return done
