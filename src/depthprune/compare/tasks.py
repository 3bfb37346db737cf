"""What a comparison has done, here or by another process, which reports it in a file."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from depthprune.compare.grid import Cell
from depthprune.errors import DiskFault, UserError
from depthprune.files import delete, read_object, write_json
from depthprune.recipe.recipe import Recipe

log = logging.getLogger("depthprune")

RUNS = "runs"
JOBS = "jobs"
"""The folder of what other processes report and log."""


@dataclass(frozen=True)
class Outcome:
    """What came of a task.

    Attributes:
        failed: why it failed, if it did.
        disk: whether that was the disk, which the next task would meet too.
    """

    failed: str | None = None
    disk: bool = False
    cause: Exception | None = field(default=None, compare=False)


class Task(Protocol):
    """A piece of a comparison, told apart by its name."""

    @property
    def name(self) -> str: ...

    @property
    def root(self) -> Path:
        """The folder of the comparison."""

    @property
    def says(self) -> str:
        """All that tells it from another task of this name."""

    def work(self) -> None:
        """Does it. What is there already is not done again."""


@dataclass(frozen=True)
class RunTask:
    """One run of a comparison.

    Attributes:
        beside: the folders of the other runs.
    """

    name: str
    root: Path
    recipe: Recipe
    beside: tuple[Path, ...]

    @property
    def says(self) -> str:
        return self.recipe.as_yaml()

    def work(self) -> None:
        from depthprune.compare.one_arithmetic import in_one_arithmetic
        from depthprune.pipeline.run import run

        recipe = in_one_arithmetic(self.recipe, self.root)
        run(recipe, self.root / RUNS / self.name, beside=self.beside)


@dataclass(frozen=True)
class LatencyTask:
    """The time of a token, of each depth that has none yet."""

    root: Path
    cells: tuple[Cell, ...]
    failed: Mapping[str, str]
    name: str = "latency"

    @property
    def says(self) -> str:
        return " ".join(cell.name for cell in self.cells)

    def work(self) -> None:
        from depthprune.compare.latency import measure_latency
        from depthprune.compare.results import read_results

        runs = self.root / RUNS
        measure_latency(self.root, runs, self.cells, read_results(self.cells, runs, self.failed))


def attempt(task: Task) -> Outcome:
    """Does it, in this process."""
    try:
        task.work()
    except DiskFault as problem:
        return Outcome(str(problem), True, problem)
    except Exception as problem:
        log.debug("%s", task.name, exc_info=True)
        kind = "" if isinstance(problem, UserError) else f"{type(problem).__name__}: "
        return Outcome(f"{kind}{problem}", False, problem)
    return Outcome()


PATIENCE = 330.0
"""Seconds to wait for a run folder: a bit more than after what a run on another machine counts as dead."""
ASKS_EVERY = 2.0


def report(task: Task) -> None:
    """Does it, in a process of its own, and leaves the outcome where `reported` finds it.

    Where the folder is in use, that is most likely by an earlier process of the same task, which has ended or
    is about to: that is waited for.
    """
    from depthprune.pipeline.lock import InUse  # here, for a task is unpickled before its process is settled

    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    ends = time.monotonic() + PATIENCE
    while True:
        outcome = attempt(task)
        if not isinstance(outcome.cause, InUse) or time.monotonic() > ends:
            break
        log.info("%s: waits for it", outcome.failed)
        time.sleep(ASKS_EVERY)
    if outcome.failed is not None:
        log.error("%s failed: %s", task.name, outcome.failed, exc_info=outcome.cause)
    write_json(_path(task.root, task.name), {"failed": outcome.failed, "disk": outcome.disk})


def reported(root: Path, name: str) -> Outcome | None:
    """What the process of a task has left; None where it is not done."""
    found = read_object(_path(root, name))
    return None if found is None else Outcome(found.get("failed"), bool(found.get("disk")))


def forget(root: Path, name: str) -> None:
    """Makes place for a new report."""
    delete(_path(root, name))


def _path(root: Path, name: str) -> Path:
    return root / JOBS / f"{name}.json"
