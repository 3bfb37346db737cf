"""How small: the most layers that can go while quality stays, found by bisection for each method."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from depthprune.compare.executor import Executor
from depthprune.compare.grid import Cell, Grid, cells_at, cells_of, controls, variations
from depthprune.compare.limit import Limit
from depthprune.compare.results import Result
from depthprune.compare.runs import Comparison, first_inputs
from depthprune.compare.table import measures_of
from depthprune.model.depth_config import num_layers
from depthprune.model.loading import load_config
from depthprune.recipe.recipe import Recipe
from depthprune.selection import Amount, count_from_ratio


@dataclass(frozen=True)
class Method:
    """One method of a grid at any size.

    Attributes:
        smallest: its runs with 1 removed.
        depth: the layers of the model.
        parts: how many there are of what goes: the layers, or their attentions and MLPs.
        given: number removed → the runs of it that the grid names by a ratio.
    """

    grid: Grid
    recipe: str
    varied: dict[str, Any]
    sources: dict[str, Any]
    smallest: list[Cell]
    depth: int
    parts: int
    given: dict[int, list[Cell]]

    @property
    def name(self) -> str:
        return self.smallest[0].method

    def cells(self, removed: int) -> list[Cell]:
        """The runs with so many removed, a seed each; those of the grid, where it has them."""
        if removed in self.given:
            return self.given[removed]
        return cells_at(self.grid, self.recipe, self.varied, removed, self.parts, **self.sources)


@dataclass(frozen=True)
class Search:
    """What a search begins with.

    Attributes:
        whole: the runs of the whole model, tuned in each way that a method is.
        given: the runs that the grid names by ratios; none where it leaves them to the search.
    """

    methods: list[Method]
    whole: list[Cell]
    given: list[Cell]


def search_of(grid: Grid, **sources: Any) -> Search:
    """The methods of a grid, the ratios that were asked for, and the control."""
    given = cells_of(grid, **sources) if "ratios" in grid.model_fields_set else []
    methods = [
        _method(grid, name, varied, sources, given) for name in grid.recipes for varied in variations(grid)
    ]
    smallest = [cell for method in methods for cell in method.smallest]
    whole = [
        control
        for seed in range(1, grid.seeds + 1)
        for control in controls([cell for cell in smallest if cell.seed == seed], sources)
    ]
    return Search(methods, whole, [cell for cell in given if cell.ratio is not None])


def _method(
    grid: Grid, recipe: str, varied: dict[str, Any], sources: dict[str, Any], given: Sequence[Cell]
) -> Method:
    method = cells_at(grid, recipe, varied, 1, 2, **sources)[0]
    assert isinstance(method.recipe.selection, Amount)
    depth = _depth(method.recipe)
    parts = method.recipe.selection.parts(depth)
    sizes: dict[int, list[Cell]] = {}
    for ratio in grid.ratios:
        mine = [cell for cell in given if (cell.method, cell.ratio) == (method.method, ratio)]
        if mine:
            sizes.setdefault(count_from_ratio(ratio, parts), mine)
    smallest = cells_at(grid, recipe, varied, 1, parts, **sources)
    return Method(grid, recipe, varied, sources, smallest, depth, parts, sizes)


def _depth(recipe: Recipe) -> int:
    return num_layers(load_config(str(recipe.model), recipe.trust_remote_code))


def keep(
    grid: Grid, limit: Limit, output: str | Path, executor: Executor | None = None, **sources: Any
) -> dict[str, Any]:
    """For each method of the grid the most layers that can go while the quality stays within `limit`.

    The whole model is tuned as the others are, where they are. Quality is the first measure. Bisection takes
    it to fall as layers go: about log2 L sizes are run for a method. Ratios that the grid names are run
    first, as `compare` does, and the bisection begins between them. Returns what `comparison.json` holds,
    with `kept`.
    """
    search = search_of(grid, **sources)
    inputs = first_inputs([cell for method in search.methods for cell in method.smallest])
    limit.check(inputs)
    with Comparison.at(output, inputs, executor) as comparison:
        cells = [*search.whole, *search.given]
        verdicts: list[dict[str, Any]] = []
        done = comparison.run(cells).done if cells else []
        for method in search.methods:
            found = {
                removed: _verdict(tried, search.whole, done, limit) for removed, tried in method.given.items()
            }
            while (removed := between(found, method.parts)) is not None:
                tried = method.cells(removed)
                if removed not in method.given:
                    cells += tried
                    done = comparison.run(cells, verdicts).done
                found[removed] = _verdict(tried, search.whole, done, limit)
            verdicts.append(_outcome(method, found, limit))
        return comparison.finish(cells, verdicts)


def between(found: Mapping[int, dict[str, Any] | None], parts: int) -> int | None:
    """The size to try next, by what is known: number removed → its verdict, None where a run failed.

    In the middle of the most that holds and the least above it that does not. A size that failed is no
    answer until it is the one to try: then what is asked is whether less holds.
    """
    low = max((removed for removed, one in found.items() if one and one["holds"]), default=0)
    high = min((removed for removed, one in found.items() if one and removed > low), default=parts)
    while high - low > 1:
        middle = (low + high) // 2
        if middle not in found:
            return middle
        high = middle
    return None


def most_runs(method: Method) -> int:
    """How many runs a search makes of a method at most, beside those that the grid names, if none fails."""
    sizes = sorted({0, method.parts, *(one for one in method.given if one < method.parts)})
    gaps = [high - low for low, high in pairwise(sizes)]
    return len(method.smallest) * max(math.ceil(math.log2(gap)) for gap in gaps)


def _outcome(method: Method, found: Mapping[int, dict[str, Any] | None], limit: Limit) -> dict[str, Any]:
    """An entry of `kept` in comparison.json: the most that holds, and what is known of more."""
    removed, best = max(
        ((removed, one) for removed, one in found.items() if one and one["holds"]),
        key=lambda size: size[0],
        default=(0, dict[str, Any]()),
    )
    beyond = "failed" if found.get(removed + 1, {}) is None else "below"
    return {
        "method": method.name,
        **asdict(limit),
        **best,
        "removed": removed,
        "num_layers": method.parts,
        "counts": "layers" if method.parts == method.depth else "attentions and MLPs",
        "beyond": "nothing" if removed + 1 == method.parts else beyond,
    }


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
