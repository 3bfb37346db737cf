"""Runs a grid, one run after the other, and keeps the table of what is there."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from depthprune.compare.budget import Budget
from depthprune.compare.grid import Cell
from depthprune.compare.latency import known_latency, measure_latency
from depthprune.compare.results import Results, read_results
from depthprune.compare.write import RESULTS, write_comparison
from depthprune.cost import spoken
from depthprune.errors import DiskFault, UserError
from depthprune.files import make_folders, read_object, remove, write_json
from depthprune.model.arithmetic import choose_arithmetic
from depthprune.pipeline.folder import RunFolder
from depthprune.pipeline.inputs import Inputs, load_inputs
from depthprune.pipeline.lock import locked
from depthprune.pipeline.run import run

log = logging.getLogger("depthprune")

RUNS = "runs"
FAILED = "failed.json"
SHARED = ("gradients", "teacher", "steps-*.json")
"""What runs keep for each other, until all are done."""


def compare(cells: Sequence[Cell], output: str | Path, budget: float | None = None) -> dict[str, Any]:
    """Runs every cell into `output/runs/<name>` and returns what `comparison.json` then holds.

    Cells that are done are not done again, so a comparison that was killed goes on; one that fails is told
    and does not stop the others. The table and report are written after each run.

    Args:
        budget: seconds; it ends before a run that would take longer than is left, by the runs like it.

    Raises:
        UserError: the folder is something else, the disk is full, or every run failed.
    """
    time_left = None if budget is None else Budget(budget)
    with Comparison.at(output, first_inputs(cells)) as comparison:
        return comparison.finish(cells, budget=time_left)


class Comparison:
    """A comparison in its folder, whose cells may become more while it runs.

    Attributes:
        failed: the name of each run that failed → why.
    """

    def __init__(self, root: Path, arithmetic: dict[str, str]) -> None:
        """`arithmetic` is the setting for cells that leave it open, if there is to be one."""
        self.root, self.arithmetic = root, arithmetic
        self.failed: dict[str, str] = {}
        self._tried: set[str] = set()

    @classmethod
    @contextmanager
    def at(cls, output: str | Path, inputs: Inputs) -> Iterator["Comparison"]:
        """Makes the folder and keeps other comparisons out of it; `inputs` are those of one of its cells."""
        root = Path(output)
        _check(root)
        make_folders(root / RUNS)
        with locked(root / "lock"):
            yield cls(root, _one_arithmetic(inputs, root))

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
        results = None
        if budget is not None:
            budget.times.look_at(cells, self.root / RUNS)
        for number, cell in enumerate(cells, 1):
            if cell.name in self._tried:
                continue
            if budget is not None and not budget.allows(cell):
                self._say_what_is_left(cells, cell, budget)
                break
            log.info("run %d of %d: %s", number, len(cells), cell.name)
            began = time.monotonic()
            changed = self._run(cell, cells)
            if budget is not None and cell.name not in self.failed:
                budget.times.add(cell, time.monotonic() - began)
            results = self._written(cells, kept) if changed else None
        return results or self._written(cells, kept)

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

    def _run(self, cell: Cell, cells: Sequence[Cell]) -> bool:
        """Whether there is anything new."""
        folder = RunFolder(self.root / RUNS / cell.name)
        before = folder.stamps(), self.failed.get(cell.name)
        self._tried.add(cell.name)
        self.failed.pop(cell.name, None)
        beside = [self.root / RUNS / other.name for other in cells if other is not cell]
        recipe = cell.recipe
        if recipe.arithmetic == "auto":
            recipe = recipe.model_copy(update=self.arithmetic)
        try:
            run(recipe, folder.root, beside=beside)
        except DiskFault:  # the next run would meet it too
            raise
        except Exception as problem:
            log.debug("%s", cell.name, exc_info=True)
            kind = "" if isinstance(problem, UserError) else f"{type(problem).__name__}: "
            self.failed[cell.name] = f"{kind}{problem}"
            log.error("%s failed: %s", cell.name, self.failed[cell.name])
        write_json(self.root / FAILED, self.failed)
        return before != (folder.stamps(), self.failed.get(cell.name))

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
        if measure_latency(self.root, self.root / RUNS, cells, results):
            self._written(cells, kept)
        if not self.failed and not results.missing:
            _clean(self.root)
        found = read_object(self.root / RESULTS)
        assert found is not None
        return found


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


def _one_arithmetic(inputs: Inputs, root: Path) -> dict[str, str]:
    """The setting for cells that leave it open: what is fastest here, which one trial decides."""
    recipe, kept = inputs.recipe, root / "arithmetic.json"
    if recipe.arithmetic != "auto":
        return {}
    if (found := read_object(kept)) is None:
        chosen = choose_arithmetic(
            inputs.config, inputs.sizes.total, trust_remote_code=recipe.trust_remote_code
        )
        found = {"dtype": chosen.dtype}
        write_json(kept, found)
    return {} if found["dtype"] is None else {"arithmetic": found["dtype"]}


def _clean(root: Path) -> None:
    for own in (RunFolder(path).own for path in (root / RUNS).iterdir() if path.is_dir()):
        for pattern in SHARED:
            for path in own.glob(pattern):
                remove(path)
