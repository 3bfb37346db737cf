"""What a comparison will do and write, before it starts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from depthprune.compare.grid import Cell
from depthprune.compare.runs import RUNS
from depthprune.pipeline.estimate import estimate, free_disk
from depthprune.pipeline.folder import RunFolder


def estimate_grid(cells: Sequence[Cell], output: Path) -> dict[str, Any]:
    """Each run with its layers, steps and disk, whether it is done, and what all need that are not."""
    found = []
    for cell in cells:
        folder = RunFolder(output / RUNS / cell.name)
        one = estimate(cell.recipe, folder.root)
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
    return {
        "runs": found,
        "disk_needed": sum(one["disk"] for one in found if not one["done"]),
        "disk_free": free_disk(output),
    }
