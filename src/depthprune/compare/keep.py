"""How small: the most layers that can go while quality stays, found by bisection for each method."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from depthprune.compare.grid import Cell, Grid, cells_at, controls, variations
from depthprune.compare.noise import LOWER_IS_BETTER
from depthprune.compare.results import Measure, Result
from depthprune.compare.runs import Comparison, check_inputs
from depthprune.compare.table import measures_of
from depthprune.model.loading import load_config
from depthprune.recipe.recipe import Recipe

SURE = 2.0
"""Standard errors between a quality and what is to be kept, from which on the verdict is sure."""


def keep(grid: Grid, share: float, output: str | Path, **sources: Any) -> dict[str, Any]:
    """For each method of the grid the most layers that can go while `share` of the quality stays.

    The whole model is tuned as the others are, where they are. Quality is the first measure; of a loss or
    perplexity the share is the whole model's over the pruned one's. Bisection takes quality to fall as layers
    go: about log2 L sizes are run for a method. Returns what `comparison.json` holds, with `kept`.
    """
    probe = cells_at(grid, grid.recipes[0], next(variations(grid)), 1, 2, **sources)[0].recipe
    num_layers = _depth(probe)
    methods = [(name, varied) for name in grid.recipes for varied in variations(grid)]
    smallest = [
        cell for name, varied in methods for cell in cells_at(grid, name, varied, 1, num_layers, **sources)
    ]
    whole = [
        control
        for seed in range(1, grid.seeds + 1)
        for control in controls([cell for cell in smallest if cell.seed == seed], sources)
    ]
    check_inputs(smallest)
    with Comparison.at(output) as comparison:
        cells: list[Cell] = list(whole)
        verdicts: list[dict[str, Any]] = []
        for name, varied in methods:
            low, high, best = 0, num_layers, None
            while high - low > 1:
                middle = (low + high) // 2
                tried = cells_at(grid, name, varied, middle, num_layers, **sources)
                cells += tried
                done = comparison.run(cells, verdicts).done
                found = _verdict(tried, done, middle, num_layers, share)
                if found is not None and found["holds"]:
                    low, best = middle, found
                else:
                    high = middle
            method = cells_at(grid, name, varied, 1, num_layers, **sources)[0].method
            none = {"method": method, "asked": share, "removed": 0, "num_layers": num_layers}
            verdicts.append(best or none)
        return comparison.finish(cells, verdicts)


def _depth(recipe: Recipe) -> int:
    config = load_config(str(recipe.model), recipe.trust_remote_code)
    return int(config.get_text_config(decoder=True).num_hidden_layers)


def _verdict(
    tried: Sequence[Cell], done: Sequence[Result], removed: int, num_layers: int, share: float
) -> dict[str, Any] | None:
    """What a size keeps, over its seeds, and whether that is sure; None where a run failed."""
    names = {cell.name for cell in tried}
    mine = [result for result in done if result.name in names]
    if len(mine) < len(names):
        return None
    measure = measures_of(mine)[0]
    whole, whole_error = _quality(_whole(tried[0], done, mine), measure)
    value, error = _quality(mine, measure)
    lower = measure[1] in LOWER_IS_BETTER
    kept = whole / value if lower else value / whole
    relative = math.hypot(error / value if value else 0.0, whole_error / whole if whole else 0.0)
    return {
        "method": tried[0].method,
        "asked": share,
        "removed": removed,
        "num_layers": num_layers,
        "measure": {"dataset": measure[0], "metric": measure[1]},
        "value": value,
        "whole": whole,
        "share": kept,
        "holds": kept >= share,
        "sure": abs(kept - share) > SURE * kept * relative,
    }


def _whole(cell: Cell, done: Sequence[Result], mine: Sequence[Result]) -> Sequence[Result] | Result:
    """The whole model, tuned as this cell is; untuned where nothing is tuned."""
    dense = [result for result in done if result.ratio is None]
    if not dense:
        return mine[0]
    alike = [result for result in dense if result.method.split()[1:2] == [cell.recipe.training.method]]
    return alike or dense


def _quality(found: Sequence[Result] | Result, measure: Measure) -> tuple[float, float]:
    """The mean over seeds, and its standard error: of the rows, and of the seeds where there are several."""
    if isinstance(found, Result):  # the whole model as it is
        one = found.base[measure]
        return one["value"], one["stderr"] or 0.0
    values = [result.results[measure]["value"] for result in found]
    of_rows = found[0].results[measure]["stderr"] or 0.0
    of_seeds = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return fmean(values), math.hypot(of_rows, of_seeds)
