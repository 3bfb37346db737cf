"""What runs of a comparison take from each other: what is done once, of one recipe and data, serves all."""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from depthprune.errors import UserError
from depthprune.files import OWN, put_in_place, remove
from depthprune.model.published import STAMPS
from depthprune.pipeline.digests import digests_of
from depthprune.pipeline.folder import ARTIFACTS, RunFolder
from depthprune.pipeline.job import Job
from depthprune.pipeline.second_opinion import ARTIFACT as GUARD
from depthprune.pipeline.second_opinion import key_of
from depthprune.selection import SELECTIONS, ByRecovery, Iterative
from depthprune.selection.base import Amount
from depthprune.settings import build

log = logging.getLogger("depthprune")

LENT = ("score", "answers")
"""Stages that are taken over whole."""
AMOUNT = ("ratio", "num_removed", "target_parameters")


def borrow(job: Job, digests: dict[str, str]) -> None:
    """Puts into the job's folder what the runs beside it have and it needs; what is there already stays."""
    lenders = [RunFolder(path) for path in job.beside or () if (path / OWN / STAMPS).is_file()]
    for stage in LENT:
        if stage in digests and stage not in job.folder.stamps():
            _take_stage(job, stage, digests[stage], lenders)
    if "score" in digests and "score" not in job.folder.stamps():
        _take_rounds(job, digests["score"], lenders)
    if "select" in digests and "select" not in job.folder.stamps():
        _take_steps(job, digests["select"], lenders)
        _take_guard(job, lenders)
    if "train" in digests and "train" not in job.folder.stamps():
        _take_teacher(job, lenders)


def _take_stage(job: Job, stage: str, digest: str, lenders: Sequence[RunFolder]) -> None:
    needs_gradients = stage == "score" and job.recipe.recovery.needs_gradients
    for lender in lenders:
        if not lender.is_done(stage, digest) or (needs_gradients and not lender.gradients.is_dir()):
            continue
        if needs_gradients:
            _link_tree(lender.gradients, job.folder.gradients)
        for name in ARTIFACTS[stage]:
            _copy(lender.own / name, job.folder.own / name)
        stamp = lender.stamps()[stage]
        job.folder.write(STAMPS, {**job.folder.stamps(), stage: {**stamp, "from": lender.root.name}})
        log.info("%-8s taken from %s", stage, lender.root.name)
        return


def _take_rounds(job: Job, digest: str, lenders: Sequence[RunFolder]) -> None:
    """The rounds of a run that removes more or less: a greedy search of more begins with that of less."""
    selection, sizes = job.recipe.selection, job.inputs.sizes
    partial = f"rounds-{digest}.json"
    if not isinstance(selection, Iterative) or selection.in_pairs or selection.in_sublayers:
        return
    found: list[dict[str, Any]] = []
    for lender in _of_other_amounts(job, "score", lenders):
        rounds, removed = [], list[int]()
        for one in lender.read("scores.json")["rounds"]:
            scores = [float("inf") if score is None else score for score in one["scores"]]
            if len(selection.next_layers(scores, removed, sizes)) != len(one["removed"]):
                break  # enough are gone, or a last round took what was left
            rounds.append(one)
            removed += one["removed"]
        found = max(found, rounds, key=len)
    _keep(job, partial, found)


def _take_steps(job: Job, digest: str, lenders: Sequence[RunFolder]) -> None:
    """The same of a recovery that chooses step by step."""
    selection, sizes = job.recipe.selection, job.inputs.sizes
    if not isinstance(selection, ByRecovery):
        return
    found: list[dict[str, Any]] = []
    for lender in _of_other_amounts(job, "select", lenders):
        for path in lender.own.glob("steps-*.json"):
            steps, removed = [], list[int]()
            for one in lender.read_if_whole(path.name, []):
                if not selection.missing(removed, sizes):
                    break
                steps.append(one)
                removed.append(one["step"]["first"] + one["step"]["second"] - one["step"]["kept"])
            found = max(found, steps, key=len)
    _keep(job, f"steps-{digest}.json", found)


def _keep(job: Job, partial: str, found: Sequence[dict[str, Any]]) -> None:
    if len(found) > len(job.folder.read_if_whole(partial, [])):
        job.folder.write(partial, list(found))
        log.info("%-8s the first %d steps are taken from another run", partial.partition("-")[0], len(found))


def _of_other_amounts(job: Job, stage: str, lenders: Sequence[RunFolder]) -> Iterator[RunFolder]:
    """The runs that have done a stage as this one will, but for how much goes."""
    for lender in lenders:
        theirs, ours = _selection_of(lender), job.recipe.selection
        if theirs is None or type(theirs) is not type(ours):
            continue
        if theirs.model_dump(exclude={*AMOUNT}) != ours.model_dump(exclude={*AMOUNT}):
            continue
        as_theirs = job.recipe.model_copy(update={"selection": theirs})
        if lender.is_done(stage, digests_of(job, as_theirs)[stage]):
            yield lender


def _selection_of(lender: RunFolder) -> Amount | None:
    try:
        settings = yaml.safe_load((lender.own / "recipe.yaml").read_text(encoding="utf-8"))["selection"]
        found = build(SELECTIONS[settings["method"]], settings, "selection")
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, UserError):
        return None
    return found if isinstance(found, Amount) else None


def _take_guard(job: Job, lenders: Sequence[RunFolder]) -> None:
    """What the guard measured; it is known by its own key there."""
    key = key_of(job)
    if job.folder.read_if_whole(GUARD, {}).get("key") == key:
        return
    for lender in lenders:
        if (found := lender.read_if_whole(GUARD, {})).get("key") == key:
            job.folder.write(GUARD, found)
            return


def _take_teacher(job: Job, lenders: Sequence[RunFolder]) -> None:
    """The dense model's predictions; each set lies in a folder named by what it depends on."""
    for lender in lenders:
        for cache in lender.teacher.glob("*"):
            if not (job.folder.teacher / cache.name).exists():
                _link_tree(cache, job.folder.teacher / cache.name)


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.copy2(source, partial)
    put_in_place(partial, target)


def _link_tree(source: Path, target: Path) -> None:
    """The same files under another name, which take no second place on the disk where it has hard links."""
    partial = target.with_name(f".{target.name}.partial")
    remove(partial)
    remove(target)
    shutil.copytree(source, partial, copy_function=_link)
    put_in_place(partial, target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
