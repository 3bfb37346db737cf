"""Runs a grid, and keeps the table of what is there."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from depthprune.compare.budget import Budget
from depthprune.compare.executor import Executor, Here
from depthprune.compare.grid import Cell
from depthprune.compare.latency import known_latency, measure_latency, unmeasured
from depthprune.compare.one_arithmetic import in_known_arithmetic, settle_for_all
from depthprune.compare.results import Results, read_results
from depthprune.compare.sharing import first_to_do
from depthprune.compare.tasks import RUNS, LatencyTask, Outcome, RunTask, Task
from depthprune.compare.write import RESULTS, write_comparison
from depthprune.cost import spoken
from depthprune.errors import DiskFault, UserError
from depthprune.files import make_folders, read_object, remove, write_json
from depthprune.pipeline.folder import RunFolder
from depthprune.pipeline.inputs import Inputs, load_inputs
from depthprune.pipeline.lock import locked
from depthprune.pipeline.run import is_finished

log = logging.getLogger("depthprune")

FAILED = "failed.json"
SHARED = ("gradients", "teacher", "steps-*.json")
"""What runs keep for each other, until all are done."""
State = tuple[dict[str, Any], str | None]
"""The stamps of a run, and why it failed."""


@dataclass(frozen=True)
class Begun:
    """A run that has begun: when, by the monotonic clock, and what was there of it before."""

    cell: Cell
    since: float
    before: State


def compare(
    cells: Sequence[Cell], output: str | Path, budget: float | None = None, executor: Executor | None = None
) -> dict[str, Any]:
    """Runs every cell into `output/runs/<name>` and returns what `comparison.json` then holds.

    Cells that are done are not done again, so a comparison that was killed goes on; one that fails is told
    and does not stop the others. The table and report are written after each run.

    Args:
        budget: seconds; it ends before a run that would take longer than is left, by the runs like it.
        executor: does the runs; by default one after the other, in this process.

    Raises:
        UserError: the folder is something else, the disk is full, or every run failed.
    """
    time_left = None if budget is None else Budget(budget)
    with Comparison.at(output, first_inputs(cells), executor) as comparison:
        return comparison.finish(cells, budget=time_left)


class Comparison:
    """A comparison in its folder, whose cells may become more while it runs.

    Attributes:
        failed: the name of each run that failed → why.
    """

    def __init__(self, root: Path, executor: Executor) -> None:
        self.root, self.executor = root, executor
        self.failed: dict[str, str] = {}
        self._waiting: list[Cell] = []
        self._begun: dict[str, Begun] = {}

    @classmethod
    @contextmanager
    def at(
        cls, output: str | Path, inputs: Inputs, executor: Executor | None = None
    ) -> Iterator["Comparison"]:
        """Makes the folder and keeps other comparisons out of it; `inputs` are those of one of its cells."""
        root, executor = Path(output), executor or Here()
        _check(root)
        make_folders(root / RUNS)
        with locked(root / "lock"):
            if inputs.recipe.arithmetic == "auto" and not executor.elsewhere:
                settle_for_all(inputs, root)
            with closing(executor):
                yield cls(root, executor)

    def run(
        self, cells: Sequence[Cell], kept: Sequence[dict[str, Any]] = (), budget: Budget | None = None
    ) -> Results:
        """Runs those of the cells that this object has not run yet; all cells that there are so far.

        Args:
            kept: what a search for the smallest model has found, for the report.
            budget: ends before the first run that it does not allow.
        """
        names = {cell.name for cell in cells}
        before = read_object(self.root / FAILED) or {}
        self.failed = {name: why for name, why in before.items() if name in names}
        if budget is not None:
            budget.times.look_at(cells, self.root / RUNS)
        self._waiting = [cell for cell in cells if cell.name not in self._begun]
        self.executor.prepare(self.root, self._waiting)
        results = None
        while self._waiting or self.executor.running():
            ended = self._begin(cells, budget) | self.executor.ended()
            if ended:
                changed = [self._settle(name, outcome, budget) for name, outcome in ended.items()]
                results = self._written(cells, kept) if any(changed) else None
        return results or self._written(cells, kept)

    def _begin(self, cells: Sequence[Cell], budget: Budget | None) -> dict[str, Outcome]:
        """As many as there is room for, and as need not wait for others; those that need no process."""
        running = [self._begun[name].cell for name in self.executor.running()]
        tasks: list[Task] = []
        ended = {}
        for cell in first_to_do(self._waiting, running, cells, self.root / RUNS):
            if len(tasks) == self.executor.room():
                break
            if budget is not None and not budget.allows(cell):
                self._say_what_is_left(cells, cell, budget)
                self._waiting = []
                break
            log.info("run %d of %d: %s", cells.index(cell) + 1, len(cells), cell.name)
            self._waiting.remove(cell)
            self._begun[cell.name] = Begun(cell, time.monotonic(), self._state(cell.name))
            self.failed.pop(cell.name, None)
            beside = [self.root / RUNS / other.name for other in cells if other is not cell]
            task = RunTask(cell.name, self.root, cell.recipe, tuple(beside))
            outcome = known(task) if self.executor.apart else None
            if outcome is None:
                tasks.append(task)
            else:
                ended[cell.name] = outcome
        self.executor.start(tasks)
        return ended

    def _state(self, name: str) -> State:
        return RunFolder(self.root / RUNS / name).stamps(), self.failed.get(name)

    def _settle(self, name: str, outcome: Outcome, budget: Budget | None) -> bool:
        """Takes in how a run ended. Whether there is anything new."""
        begun = self._begun[name]
        if outcome.disk:  # the next run would meet it too
            raise DiskFault(outcome.failed)
        if outcome.failed is not None:
            self.failed[name] = outcome.failed
            log.error("%s failed: %s", name, outcome.failed)
        else:
            if budget is not None:
                budget.times.add(begun.cell, time.monotonic() - begun.since)
            if self.executor.apart:
                log.info("done: %s", name)
        write_json(self.root / FAILED, self.failed)
        return begun.before != self._state(name)

    def _say_what_is_left(self, cells: Sequence[Cell], following: Cell, budget: Budget) -> None:
        times = budget.times
        left = sum(cell.name not in times.took for cell in cells)
        seconds = f", {spoken(times.left(cells))}, the next one {spoken(times.expected(following))}"
        log.info(
            "no time for another run: %d of %d runs are left%s; the same command goes on",
            left,
            len(cells),
            seconds if times.took else "",
        )

    def _written(self, cells: Sequence[Cell], kept: Sequence[dict[str, Any]]) -> Results:
        results = read_results(cells, self.root / RUNS, self.failed)
        results = replace(results, latency=known_latency(self.root, results.environment))
        write_comparison(self.root, results, kept)
        return results

    def finish(
        self, cells: Sequence[Cell], kept: Sequence[dict[str, Any]] = (), budget: Budget | None = None
    ) -> dict[str, Any]:
        """Runs what is left and returns the content of `comparison.json`; `UserError` if every run failed."""
        results = self.run(cells, kept, budget)
        if len(self.failed) == len(cells):
            raise UserError(f"every run failed: {next(iter(self.failed.values()))}")
        if self._measure_latency(cells, results):
            self._written(cells, kept)
        if not self.failed and not results.missing:
            _clean(self.root)
        found = read_object(self.root / RESULTS)
        assert found is not None
        return found

    def _measure_latency(self, cells: Sequence[Cell], results: Results) -> bool:
        """Where the runs are done. Whether there is anything new."""
        if not self.executor.elsewhere:
            return measure_latency(self.root, self.root / RUNS, cells, results)
        if not unmeasured(self.root, results):
            return False
        self.executor.start([LatencyTask(self.root, tuple(cells), self.failed)])
        while not (ended := self.executor.ended()):
            continue
        for outcome in ended.values():
            if outcome.failed is not None:
                log.warning("latency is not measured: %s", outcome.failed)
        return True


def known(task: RunTask) -> Outcome | None:
    """How a run ends that needs none: all is there, or its input is wrong."""
    try:
        recipe = in_known_arithmetic(task.recipe, task.root)
        return Outcome() if is_finished(recipe, task.root / RUNS / task.name) else None
    except UserError as problem:
        return Outcome(str(problem))


def _check(root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file: name a folder with --output")
    if root.is_dir() and any(root.iterdir()) and not (root / RUNS).is_dir():
        raise UserError(
            f"{root} exists and is not a comparison of depthprune: name a new folder with --output"
        )


def first_inputs(cells: Sequence[Cell]) -> Inputs:
    """Those of the first cell that model and data serve; raises `UserError` where they serve none."""
    problems = []
    for cell in cells:
        try:
            return load_inputs(cell.recipe)
        except UserError as problem:
            problems.append(problem)
    raise problems[0]


def _clean(root: Path) -> None:
    for own in (RunFolder(path).own for path in (root / RUNS).iterdir() if path.is_dir()):
        for pattern in SHARED:
            for path in own.glob(pattern):
                remove(path)
