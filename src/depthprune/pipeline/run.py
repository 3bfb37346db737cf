"""The pipeline: score → select → prune → train (and the baseline) → evaluate → report, resumable."""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from depthprune.cost import measured
from depthprune.errors import UserError, disk_faults_explained
from depthprune.files import read_object, remove
from depthprune.importance.igia import Igia
from depthprune.pipeline.apart import check_apart
from depthprune.pipeline.arithmetic import settle_arithmetic
from depthprune.pipeline.estimate import check_disk
from depthprune.pipeline.evaluate import evaluate, evaluate_row
from depthprune.pipeline.fingerprint import fingerprint, model_fingerprint, provenance
from depthprune.pipeline.folder import STAGES, RunFolder
from depthprune.pipeline.inputs import load_inputs
from depthprune.pipeline.job import Job
from depthprune.pipeline.memory import give_back
from depthprune.pipeline.prune import prune
from depthprune.pipeline.score import score
from depthprune.pipeline.select import select
from depthprune.pipeline.superseded import set_aside_without_stamps, supersede
from depthprune.pipeline.train import answers, baseline, train
from depthprune.recipe.recipe import Recipe
from depthprune.report import environment, write_report
from depthprune.selection import Contiguous, Iterative
from depthprune.training import FineTuning

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
    "prune": lambda job: () if job.recipe.keep_gradients else ("gradients",),
    "select": lambda job: ("steps-*.json",),
    "answers": lambda job: ("self-data-*.partial",),
    "train": lambda job: ("trainer/train-*",),
    "baseline": lambda job: ("trainer/baseline-*",),
    "evaluate": lambda job: ("eval-*.json",),
}
"""What a stage works with, which goes once it is stamped: a stage that was killed goes on from it."""

UNTIL = tuple(stage for stage in STAGES if stage not in ("answers", "baseline"))


def run(recipe: Recipe, output: str | Path, until: str = "evaluate", overwrite: bool = False) -> Path:
    """Runs a recipe into the folder `output`, which becomes the pruned model's own, and returns it.

    Stages whose artifacts stand there with the same recipe and data are skipped, so a run that was killed, or
    that ended at an earlier `until`, goes on. What a changed recipe replaces is moved to
    `depthprune/superseded/<date>`, or with `overwrite` deleted. Under `accelerate launch` or torchrun every
    process calls this.

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
        job = Job(inputs, folder, state, settle_arithmetic(inputs, folder, state))
        with folder.in_use() if job.state.is_main_process else nullcontext():
            _run_stages(job, until, overwrite)
    return folder.root


def evaluate_model(recipe: Recipe) -> dict[str, Any]:
    """The recipe's model on its evaluation data, in the form of `eval.json`; writes nothing."""
    inputs, state = load_inputs(recipe), PartialState()
    job = Job(inputs, RunFolder("."), state, settle_arithmetic(inputs, None, state))
    return {"rows": {Path(str(recipe.model)).name: evaluate_row(job, str(recipe.model))}}


def _run_stages(job: Job, until: str, overwrite: bool) -> None:
    digests = _digests(job)
    asked = STAGES[: STAGES.index(until) + 1] if until != "train" else STAGES[: STAGES.index("baseline") + 1]
    if job.state.is_main_process:
        set_aside_without_stamps(job.folder)
        job.folder.sweep()
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
        if "train" in asked:  # what a killed training would go on with
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


def _digests(job: Job) -> dict[str, str]:
    """The stages of this run in order, each with a hash of everything that its result depends on.

    That is the recipe's keys, the model, the data, and through them the stages before.
    """
    recipe = job.recipe
    sources = {key: getattr(recipe, key) for key in ("train", "calibration")}
    data = {key: fingerprint(source) for key, source in sources.items() if source}
    data["model"] = model_fingerprint(str(recipe.model))
    evals = [fingerprint(source) for source in recipe.eval]
    keys = ["seed", "dtype", "chat_template", "trust_remote_code"]
    if recipe.arithmetic != "auto":  # what `auto` chose stays with the folder
        keys.append("arithmetic")
    if recipe.chat_template is not None:  # by what it says, not by where it lies
        recipe = recipe.model_copy(update={"chat_template": fingerprint(recipe.chat_template)})
    common = [recipe.digest(*keys), data, bool(evals)]
    digests = {}
    last = _hash(common)
    if job.prunes:
        # Rounds and windows are those of one ratio; one score per layer serves every selection.
        rounds = recipe.digest("selection") if isinstance(recipe.selection, Iterative | Contiguous) else None
        digests["score"] = _hash(common, recipe.digest("importance", "calibration_samples"), rounds)
        digests["select"] = _hash(digests["score"], recipe.digest("selection", "recovery"))
        digests["prune"] = last = _hash(digests["select"])
    training = recipe.training
    if isinstance(training, FineTuning):
        if training.data == "self":
            digests["answers"] = _hash(common, training.self_data.model_dump(), training.max_length)
        digests["train"] = last = _hash(last, recipe.digest("training"))
        if recipe.baseline and job.prunes:
            digests["baseline"] = _hash(common, recipe.digest("training"))
    if job.inputs.evals:
        digests["evaluate"] = _hash(last, evals, recipe.digest("baseline", "evaluation"))
    return digests


def _is_done(job: Job, stage: str, digests: dict[str, str], asked: Sequence[str]) -> bool:
    done = job.folder.is_done(stage, digests[stage])
    if stage == "score" and job.recipe.recovery.needs_gradients and "prune" in asked:
        # The gradients go once the layers are merged; another plan has to record them again.
        return done and (job.folder.is_done("prune", digests["prune"]) or job.folder.gradients.is_dir())
    return done


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
