"""How small: the most layers that can go while quality stays, found by bisection for each method."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from depthprune.compare.grid import Cell, Grid, cells_at, controls, variations
from depthprune.compare.limit import Limit
from depthprune.compare.results import Result
from depthprune.compare.runs import Comparison, first_inputs
from depthprune.compare.table import measures_of
from depthprune.model.loading import load_config
from depthprune.recipe.recipe import Recipe


def keep(grid: Grid, limit: Limit, output: str | Path, **sources: Any) -> dict[str, Any]:
    """For each method of the grid the most layers that can go while the quality stays within `limit`.

    The whole model is tuned as the others are, where they are. Quality is the first measure. Bisection takes
    it to fall as layers go: about log2 L sizes are run for a method. Returns what `comparison.json` holds,
    with `kept`.
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
    inputs = first_inputs(smallest)
    limit.check(inputs)
    with Comparison.at(output, inputs) as comparison:
        cells: list[Cell] = list(whole)
        verdicts: list[dict[str, Any]] = []
        for name, varied in methods:
            low, high, best = 0, num_layers, None
            while high - low > 1:
                middle = (low + high) // 2
                tried = cells_at(grid, name, varied, middle, num_layers, **sources)
                cells += tried
                done = comparison.run(cells, verdicts).done
                found = _verdict(tried, whole, done, limit)
                if found is not None and found["holds"]:
                    low, best = middle, {**found, "removed": middle, "num_layers": num_layers}
                else:
                    high = middle
            method = cells_at(grid, name, varied, 1, num_layers, **sources)[0].method
            none = {"method": method, **asdict(limit), "removed": 0, "num_layers": num_layers}
            verdicts.append(best or none)
        return comparison.finish(cells, verdicts)


def _depth(recipe: Recipe) -> int:
    config = load_config(str(recipe.model), recipe.trust_remote_code)
    return int(config.get_text_config(decoder=True).num_hidden_layers)


def _verdict(
    tried: Sequence[Cell], whole: Sequence[Cell], done: Sequence[Result], limit: Limit
) -> dict[str, Any] | None:
    """What a size keeps, over its seeds, and whether that is enough; None where a run failed."""
    alike = [cell for cell in whole if cell.tuning == tried[0].tuning]
    mine, dense = _of(tried, done), _of(alike, done)
    if len(mine) < len(tried) or len(dense) < len(alike):
        return None
    measure = measures_of(mine)[0]
    reference = [result.results[measure] for result in dense]
    wanted = _quality(reference or [mine[0].base[measure]])  # untuned where nothing is tuned
    found = _quality([result.results[measure] for result in mine])
    return {
        "method": tried[0].method,
        **asdict(limit),
        "measure": {"dataset": measure[0], "metric": measure[1]},
        **limit.verdict(found, wanted, measure[1]),
    }


def _of(cells: Sequence[Cell], done: Sequence[Result]) -> list[Result]:
    names = {cell.name for cell in cells}
    return [result for result in done if result.name in names]


def _quality(found: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The mean over seeds, and its standard error: of the rows, and of the seeds where there are several."""
    values = [one["value"] for one in found]
    of_seeds = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return fmean(values), math.hypot(found[0]["stderr"] or 0.0, of_seeds)
