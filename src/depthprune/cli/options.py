"""The arguments and options that several verbs take, and the recipe that they add up to."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from depthprune.errors import UserError

if TYPE_CHECKING:
    from depthprune.recipe.recipe import Recipe
    from depthprune.selection.target import Target


def _recipes(incomplete: str) -> list[str]:
    """For the shell: the names that begin so."""
    from depthprune.recipe.load import recipe_names

    return [name for name in recipe_names() if name.startswith(incomplete)]


RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A name from `depthprune methods`, or a YAML file.", autocompletion=_recipes
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="training.method=full, …")
]
Model = Annotated[str | None, typer.Option(help="Model folder or hub id.")]
Weights = Annotated[
    str | None, typer.Option(help="The full model to cut, where --model is its quantised copy, to be scored.")
]
Train = Annotated[
    str | None, typer.Option(help="Training data: JSONL, JSON, CSV, Parquet, folder, or hub id.")
]
Eval = Annotated[list[str] | None, typer.Option(help="Evaluation data; may be repeated.")]
CalibrationData = Annotated[
    str | None, typer.Option("--calibration", help="Text or rows for metrics without training.")
]
Ratio = Annotated[float | None, typer.Option(help="Share of the layers to remove.")]
TargetParameters = Annotated[
    str | None, typer.Option(help="In place of a ratio: at most so many parameters, 6e9 or 6B.")
]
TargetMemory = Annotated[
    str | None, typer.Option(help="In place of a ratio: at most so many bytes of weights, 12GB.")
]
TargetLatency = Annotated[
    str | None, typer.Option(help="In place of a ratio: this share of the whole model's cost of a token.")
]
Output = Annotated[Path, typer.Option(help="The run folder: becomes the pruned model's own.")]
ChatTemplate = Annotated[
    str | None, typer.Option(help="A Jinja file, where the tokenizer has no chat template.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]
Until = Literal["score", "select", "prune", "train", "evaluate"]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Delete what a changed recipe replaces, and what was kept of it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")]


def recipe_of(name: str, overrides: list[str] | None, **options: Any) -> "Recipe":
    """The recipe with the options and KEY=VALUE pairs on top; the latter win.

    Options that were not given, and flags that were not set, leave the recipe's own values.
    """
    from depthprune.recipe.load import load_recipe, parse_override

    return load_recipe(name, **{**given(**options), **dict(map(parse_override, overrides or []))})


AMOUNTS = ("selection.ratio", "selection.num_removed", "selection.target_parameters")


def target_of(
    ratio: float | None, overrides: list[str] | None = None, **texts: str | None
) -> "Target | None":
    """What one of the `--target-…` options asks for; refuses it beside another amount."""
    from depthprune.selection.target import parse_target

    target = parse_target(**texts)
    others = [text for text in overrides or () if text.partition("=")[0] in AMOUNTS]
    if target is not None and (ratio is not None or others):
        other = others[0] if ratio is None else f"--ratio {ratio:g}"
        raise UserError(f"{target.option} and {other} both say how many layers go: give one of them")
    return target


def given(**options: Any) -> dict[str, Any]:
    """Those that the user gave: not what is None, a flag that is off, or a list of nothing."""
    return {key: value for key, value in options.items() if not _is_left_out(value)}


def _is_left_out(value: Any) -> bool:
    return value is None or value is False or value == []  # 0 is a value, and for many settings a wrong one
