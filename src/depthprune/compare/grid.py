"""The grid of a comparison: recipes × how much goes × seeds × whatever else varies."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from depthprune.errors import UserError
from depthprune.recipe.bounded_yaml import read_mapping
from depthprune.recipe.load import load_recipe
from depthprune.recipe.recipe import Recipe
from depthprune.selection.base import Amount
from depthprune.settings import Settings, build
from depthprune.training import NoTraining

DENSE = "finetune"
"""The recipe of the whole model, tuned alike: the control."""
TUNED_BY = "lora"
"""How a recipe without training is tuned where the others are: else they could not be compared."""

AMOUNTS = ("selection.ratio", "selection.num_removed", "selection.target_parameters")
"""The ways of a recipe to say how much goes; in a comparison the grid says it."""
NO_AMOUNT = dict.fromkeys(AMOUNTS)
SOURCES = ("model", "train", "eval", "calibration", "chat_template")


class Grid(Settings):
    """What a comparison varies, and what all of its runs have in common."""

    recipes: tuple[str, ...] = Field(min_length=1)
    """Names from `depthprune methods`, or YAML files."""
    ratios: tuple[float, ...] = Field((0.25,), min_length=1)
    """The shares of the layers that go."""
    seeds: int = Field(1, ge=1)
    """How many: 1, 2, 3, …"""
    settings: dict[str, Any] = Field({})
    """Of all runs, by dotted key: `training.max_steps: 30`."""
    vary: dict[str, tuple[Any, ...]] = Field({})
    """Settings with the values to try, by dotted key."""
    baseline: bool = False
    """Also tune the whole model, once for each way of tuning and each seed."""

    @field_validator("recipes", "ratios")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len({*values}) < len(values):
            raise ValueError("one of them stands there twice")
        return values


@dataclass(frozen=True)
class Cell:
    """One run of the grid.

    Attributes:
        method: the recipe's name, with what varies if anything does; `dense` for the whole model, tuned.
        ratio: the share of the layers that goes; None for the whole model.
        recipe: complete, with model and data.
    """

    method: str
    ratio: float | None
    seed: int
    recipe: Recipe

    @property
    def tuning(self) -> str | None:
        """All settings of how it is tuned; None where it is not. Where they are equal one control does."""
        training = self.recipe.training
        return None if isinstance(training, NoTraining) else training.model_dump_json()

    @property
    def name(self) -> str:
        """Of its folder: what it does, and a hash of all settings. The run itself knows its data."""
        settings = self.recipe.model_copy(update={**dict.fromkeys(SOURCES), "eval": ()}).as_yaml()
        words = [self.method, *([] if self.ratio is None else [f"{self.ratio:g}"]), f"seed{self.seed}"]
        readable = "-".join("".join(c if c.isalnum() or c == "." else " " for c in " ".join(words)).split())
        return f"{readable[:80]}-{hashlib.sha256(settings.encode()).hexdigest()[:6]}"


def read_grid(path: Path | None, **given: Any) -> Grid:
    """A grid from a YAML file with the options that were given on top, or of those alone."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = read_mapping(path, "grid: a mapping with recipes, ratios, seeds, … is expected")
        except OSError as problem:
            raise UserError(f"{path} cannot be read: {problem}") from None
    values |= given
    if "recipes" not in values:
        raise UserError("no recipes to compare: name them with --recipes a,b or in a --grid file")
    return build(Grid, values, "grid")


def cells_of(grid: Grid, **sources: Any) -> list[Cell]:
    """All runs, a seed at a time, so that a part of the work is a whole comparison of one seed.

    Args:
        sources: `model`, `train`, `eval` and what else says where to read from, as in a recipe.

    Raises:
        UserError: a recipe or setting that is not one, before anything runs.
    """
    for where, keys in (("vary", grid.vary), ("settings", grid.settings)):
        if taken := [key for key in (*AMOUNTS, "seed") if key in keys]:
            raise UserError(
                f"{where}: {taken[0]} is the grid's to say: name shares of the layers with --ratios and how "
                "many seeds with --seeds, or as `ratios` and `seeds` in its file"
            )
    found: list[Cell] = []
    for seed in range(1, grid.seeds + 1):
        cells = [
            _cell(name, varied, {**NO_AMOUNT, "selection.ratio": ratio}, ratio, seed, grid, sources)
            for ratio, name, varied in product(grid.ratios, grid.recipes, variations(grid))
        ]
        found += [*(controls(cells, sources) if grid.baseline else ()), *cells]
    return found


def cells_at(
    grid: Grid, name: str, varied: dict[str, Any], removed: int, num_layers: int, **sources: Any
) -> list[Cell]:
    """The runs of one method at a number of layers, a seed each."""
    amount = {**NO_AMOUNT, "selection.num_removed": removed}
    return [
        _cell(name, varied, amount, removed / num_layers, seed, grid, sources)
        for seed in range(1, grid.seeds + 1)
    ]


def variations(grid: Grid) -> Iterator[dict[str, Any]]:
    """Each combination of what varies besides recipes, ratios and seeds."""
    for values in product(*grid.vary.values()):
        yield dict(zip(grid.vary, values, strict=True))


def _cell(
    name: str,
    varied: dict[str, Any],
    amount: dict[str, Any],
    ratio: float,
    seed: int,
    grid: Grid,
    sources: dict[str, Any],
) -> Cell:
    own = load_recipe(name)
    settings: dict[str, Any] = {"seed": seed, **grid.settings, **varied}
    if not isinstance(own.selection, Amount):
        raise UserError(f"{name}: its selection takes no ratio, so that it cannot be compared by one")
    if sources.get("train") and isinstance(own.training, NoTraining):
        settings = {"training.method": TUNED_BY, **settings}
    if "seed" in type(own.importance).model_fields:  # one draw of random layers a seed
        settings = {"importance.seed": seed, **settings}
    recipe = load_recipe(name, **{**sources, **settings, **amount})
    words = [Path(name).stem, *(f"{key.rpartition('.')[2]}={value}" for key, value in varied.items())]
    return Cell(" ".join(words), ratio, seed, recipe)


def controls(cells: Sequence[Cell], sources: dict[str, Any]) -> list[Cell]:
    """The whole model, tuned in each way that one of these runs, all of one seed, is."""
    tuned = list({cell.tuning: cell.recipe for cell in cells if cell.tuning is not None}.values())
    found = []
    for recipe in tuned:
        dense = load_recipe(DENSE, **sources).model_copy(
            update={
                key: getattr(recipe, key)
                for key in ("training", "evaluation", "dtype", "arithmetic", "seed", "chat_template")
            }
        )
        method = "dense" if len(tuned) == 1 else f"dense {recipe.training.method}"
        found.append(Cell(method, None, recipe.seed, dense))
    if len({cell.method for cell in found}) < len(found):  # one way of tuning, set in several ways
        found = [Cell(f"{cell.method} {i}", None, cell.seed, cell.recipe) for i, cell in enumerate(found, 1)]
    return found
