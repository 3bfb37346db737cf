"""What a comparison will do and write, before it starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from depthprune.compare.budget import Times
from depthprune.compare.first_batches import seconds_at_least
from depthprune.compare.grid import Cell, Grid
from depthprune.compare.keep import most_runs, search_of
from depthprune.compare.limit import Limit
from depthprune.compare.runs import first_inputs
from depthprune.compare.tasks import RUNS
from depthprune.pipeline.estimate import estimate, free_disk
from depthprune.pipeline.folder import RunFolder


def estimate_search(
    grid: Grid, limit: Limit, output: Path, here: bool = True, **sources: Any
) -> dict[str, Any]:
    """As `estimate_grid`, of the runs that come first; and what the search runs at most of each method."""
    search = search_of(grid, **sources)
    smallest = [cell for method in search.methods for cell in method.smallest]
    limit.check(first_inputs(smallest))
    search_runs = []
    for method in search.methods:
        one = estimate(method.smallest[0].recipe, output)
        runs = most_runs(method)
        search_runs.append({"method": method.name, "runs": runs, "disk": runs * one["disk_needed"]})
    return {**estimate_grid([*search.whole, *search.given], output, here), "search": search_runs}


def estimate_grid(cells: Sequence[Cell], output: Path, here: bool = True) -> dict[str, Any]:
    """Each run with its layers, steps and disk, whether it is done, and what all need that are not.

    `seconds` is by the runs that are done in this folder, or where there is none by the first batches of
    tuning and measuring: `seconds_by` says which. Nothing is tried for runs that are not to be done `here`.
    """
    found, estimates = [], []
    for cell in cells:
        folder = RunFolder(output / RUNS / cell.name)
        one = estimate(cell.recipe, folder.root)
        estimates.append(one)
        found.append(
            {
                "run": cell.name,
                "layers": one["remaining"]["layers"],
                "parameters": one["remaining"]["parameters"],
                "steps": one["steps"],
                "disk": one["disk_needed"],
                "done": "evaluate" in folder.stamps(),
            }
        )
    times = Times()
    times.look_at(cells, output / RUNS)
    seconds = times.left(cells) if times.took else None
    if seconds is None and here:
        seconds = seconds_at_least(cells, estimates)
    return {
        "runs": found,
        "seconds": None if seconds is None else round(seconds, 1),
        "seconds_by": "runs" if times.took else "first batches",
        "disk_needed": sum(one["disk"] for one in found if not one["done"]),
        "disk_free": free_disk(output),
    }
