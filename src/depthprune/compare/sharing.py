"""Which runs wait for another: one that would do the same work has only to see it done."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from depthprune.compare.grid import Cell
from depthprune.pipeline.borrow import AMOUNT
from depthprune.pipeline.folder import RunFolder
from depthprune.recipe.recipe import Recipe
from depthprune.selection import ByRecovery, Contiguous, Iterative, KeepAll
from depthprune.training import FineTuning

Shared = tuple[str, str]
"""A stage, and all that its result depends on which runs of one comparison may not have in common."""


def shared_work(recipe: Recipe) -> set[Shared]:
    """What a run does that others may do, too: those with the same here take it over from each other.

    Only what is done at the same time in all of them, so that to wait is never slower. Equal whole models and
    guards are measured by each that finds none yet.
    """
    found = set[Shared]()
    selection = recipe.selection
    common = [recipe.seed, recipe.dtype, recipe.arithmetic]
    if not isinstance(selection, KeepAll):
        scored: list[Any] = [*common, recipe.digest("importance", "calibration_samples")]
        whole = selection.model_dump(mode="json")
        but_amount = {key: value for key, value in whole.items() if key not in AMOUNT}
        rounds = isinstance(selection, Iterative) and not (selection.in_pairs or selection.in_sublayers)
        if rounds:
            scored.append(but_amount)
        elif isinstance(selection, Iterative | Contiguous):
            scored.append(whole)
        found.add(("score", json.dumps(scored)))
        if isinstance(selection, ByRecovery):
            found.add(("select", json.dumps([*scored, but_amount, recipe.digest("recovery")])))
    if isinstance(recipe.training, FineTuning) and recipe.training.data == "self":
        asked = recipe.training
        found.add(
            ("answers", json.dumps([*common, asked.self_data.model_dump(mode="json"), asked.max_length]))
        )
    return found


def first_to_do(
    waiting: Sequence[Cell], running: Collection[Cell], cells: Sequence[Cell], runs: Path
) -> list[Cell]:
    """Those of `waiting` that can begin: none does what another is doing, or is to begin with."""
    if not waiting:
        return []
    done = done_of(cells, runs)
    doing: set[Shared] = set()
    for cell in running:
        doing |= shared_work(cell.recipe) - done
    found = []
    for cell in waiting:
        own = shared_work(cell.recipe) - done
        if not own & doing:
            found.append(cell)
            doing |= own
    return found


def done_of(cells: Sequence[Cell], runs: Path) -> set[Shared]:
    """What some run has done already, though it may not be at its end."""
    return {
        (stage, key)
        for cell in cells
        if (stamps := RunFolder(runs / cell.name).stamps())
        for stage, key in shared_work(cell.recipe)
        if stage in stamps
    }
