"""What runs of a comparison take from each other: what is done once, of one recipe and data, serves all."""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from depthprune.errors import UserError
from depthprune.files import OWN, link_or_copy, put_copy, put_in_place, remove
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
Step = dict[str, Any]
"""A round, or a step of a recovery's choice: the layers `removed`, and what else it found."""


def borrow(job: Job, digests: dict[str, str]) -> None:
    """Puts into the job's folder what the runs beside it have and it needs; what is there already stays."""
    lenders = [RunFolder(path) for path in job.beside or () if (path / OWN / STAMPS).is_file()]
    if not lenders:
        return
    for stage in LENT:
        if _lacks(job, stage, digests):
            _take_stage(job, stage, digests[stage], lenders)
    if _lacks(job, "score", digests):
        _take_rounds(job, digests["score"], lenders)
    if _lacks(job, "select", digests):
        _take_steps(job, digests["select"], lenders)
        _take_guard(job, lenders)
    if _lacks(job, "train", digests):
        _take_teacher(job, lenders)


def _lacks(job: Job, stage: str, digests: dict[str, str]) -> bool:
    return stage in digests and stage not in job.folder.stamps()


def _take_stage(job: Job, stage: str, digest: str, lenders: Sequence[RunFolder]) -> None:
    needs_gradients = stage == "score" and job.recipe.recovery.needs_gradients
    for lender in lenders:
        if not lender.is_done(stage, digest) or (needs_gradients and not lender.gradients.is_dir()):
            continue
        if needs_gradients:
            _link_tree(lender.gradients, job.folder.gradients)
        for name in ARTIFACTS[stage]:
            put_copy(lender.own / name, job.folder.own / name)
        stamp = lender.stamps()[stage]
        job.folder.write(STAMPS, {**job.folder.stamps(), stage: {**stamp, "from": lender.root.name}})
        log.info("%-8s taken from %s", stage, lender.root.name)
        return


def _take_rounds(job: Job, digest: str, lenders: Sequence[RunFolder]) -> None:
    """The rounds of a run that removes more or less: a greedy search of more begins with that of less."""
    selection, sizes = job.recipe.selection, job.inputs.sizes
    if not isinstance(selection, Iterative) or selection.in_pairs or selection.in_sublayers:
        return

    def serves(one: Step, removed: list[int]) -> bool:
        """Unless enough are gone, or it is a last round that took what was left."""
        scores = [float("inf") if score is None else score for score in one["scores"]]
        return len(selection.next_layers(scores, removed, sizes)) == len(one["removed"])

    found = [lender.read("scores.json")["rounds"] for lender, _ in _of_other_amounts(job, "score", lenders)]
    _keep(job, f"rounds-{digest}.json", found, serves)


def _take_steps(job: Job, digest: str, lenders: Sequence[RunFolder]) -> None:
    """The same of a recovery that chooses step by step."""
    selection, sizes = job.recipe.selection, job.inputs.sizes
    if not isinstance(selection, ByRecovery):
        return
    found = [
        lender.read_if_whole(f"steps-{theirs}.json", [])
        for lender, theirs in _of_other_amounts(job, "select", lenders)
    ]
    _keep(job, f"steps-{digest}.json", found, lambda _, removed: bool(selection.missing(removed, sizes)))


def _keep(
    job: Job, partial: str, searches: Sequence[list[Step]], serves: Callable[[Step, list[int]], bool]
) -> None:
    """Writes the longest of their beginnings whose every step serves, after those before it."""
    longest: list[Step] = []
    for steps in searches:
        removed: list[int] = []
        for number, one in enumerate(steps, 1):
            if not serves(one, removed):
                break
            removed += one["removed"]
            longest = max(longest, steps[:number], key=len)
    if len(longest) > len(job.folder.read_if_whole(partial, [])):
        job.folder.write(partial, longest)
        what = partial.partition("-")[0]
        log.info("%-8s the first %d steps are taken from another run", what, len(longest))


def _of_other_amounts(job: Job, stage: str, lenders: Sequence[RunFolder]) -> Iterator[tuple[RunFolder, str]]:
    """The runs that have done a stage as this one will, but for how much goes; with its hash there."""
    for lender in lenders:
        theirs, ours = _selection_of(lender), job.recipe.selection
        if theirs is None or type(theirs) is not type(ours):
            continue
        if theirs.model_dump(exclude={*AMOUNT}) != ours.model_dump(exclude={*AMOUNT}):
            continue
        as_theirs = job.recipe.model_copy(update={"selection": theirs})
        digest = digests_of(job, as_theirs)[stage]
        if lender.is_done(stage, digest):
            yield lender, digest


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
        for cache in lender.teacher.glob("[!.]*"):
            if not (job.folder.teacher / cache.name).exists():
                _link_tree(cache, job.folder.teacher / cache.name)


def _link_tree(source: Path, target: Path) -> None:
    """What a run that goes on has not written to its end stays out: under both names it would be one file."""
    partial = target.with_name(f".{target.name}.partial")
    remove(partial)
    remove(target)
    unfinished = shutil.ignore_patterns("*.partial")
    shutil.copytree(source, partial, copy_function=link_or_copy, ignore=unfinished)
    put_in_place(partial, target)
