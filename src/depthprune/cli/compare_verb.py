"""The verb that runs a grid of recipes. It does not import torch before its arguments are parsed."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from depthprune.cli.options import (
    CalibrationData,
    ChatTemplate,
    Eval,
    Json,
    Model,
    Train,
    TrustRemoteCode,
    given,
)
from depthprune.errors import UserError

if TYPE_CHECKING:
    from depthprune.compare.executor import Executor
    from depthprune.compare.grid import Grid

Executing = Literal["local", "slurm"]

UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
"""Seconds of each, by its first letter."""


def compare(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of all runs.")
    ] = None,
    recipes: Annotated[str | None, typer.Option(help="Recipes, with commas between them.")] = None,
    ratios: Annotated[str | None, typer.Option(help="Shares of the layers to remove: 0.25,0.4")] = None,
    seeds: Annotated[int | None, typer.Option(help="Run everything this many times.")] = None,
    grid: Annotated[
        Path | None, typer.Option(help="A YAML file with recipes, ratios, seeds, settings, vary.")
    ] = None,
    model: Model = None,
    train: Train = None,
    eval: Eval = None,
    calibration: CalibrationData = None,
    chat_template: ChatTemplate = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Also tune the whole model, the fair control.")
    ] = False,
    keep: Annotated[
        float | None, typer.Option(help="Find the smallest model with this share of the quality: 0.98")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(help="The same, by how much the quality may fall: 0.01 of accuracy.")
    ] = None,
    executor: Annotated[
        Executing | None,
        typer.Option(
            help="local: as many runs at once as memory allows; slurm: each as a job of the cluster."
        ),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of sbatch: time=4:00:00; may be repeated."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="End before a run that would go beyond this time: 2h, 90min.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the runs, and the disk they need.")
    ] = False,
    output: Annotated[Path, typer.Option(help="The folder of the comparison.")] = Path("out/compare"),
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Run several recipes on the same model and data, and say which differences the noise allows."""
    seconds = None if budget is None else parse_seconds(budget)
    if budget is not None and (keep is not None or max_drop is not None or dry_run):
        raise UserError("--budget is for running a grid: leave out --keep, --max-drop and --dry-run")
    limit = _limit(keep, max_drop)
    _check_executor(executor, slurm, budget)
    from depthprune.compare.grid import cells_of, read_grid
    from depthprune.recipe.load import parse_override

    settings = dict(map(parse_override, overrides)) if overrides else None
    asked = read_grid(
        grid,
        **given(
            recipes=_names(recipes),
            ratios=_numbers(ratios),
            seeds=seeds,
            settings=settings,
            baseline=baseline,
        ),
    )
    sources = given(
        model=model,
        train=train,
        eval=eval,
        calibration=calibration,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
    )
    if "model" not in sources:
        raise UserError("no model to prune: name one with --model")
    if "eval" not in sources and "train" not in sources:
        raise UserError("nothing to measure the models on: give evaluation data with --eval")
    does = _executor(executor, slurm)
    if limit is not None:
        _find_smallest(asked, limit, output, sources, dry_run, as_json, does)
        return
    cells = cells_of(asked, **sources)
    from depthprune.cli.compare_display import show_comparison, show_grid

    if dry_run:
        from depthprune.compare.estimate import estimate_grid

        show_grid(estimate_grid(cells, output, here=executor != "slurm"), as_json)
        return
    from depthprune.compare.runs import compare as run_comparison

    show_comparison(run_comparison(cells, output, seconds, does), output, as_json)


def _check_executor(name: Executing | None, slurm: list[str] | None, budget: str | None) -> None:
    if slurm and name != "slurm":
        raise UserError("--slurm is for --executor slurm: name that too, or leave it out")
    if name == "slurm" and budget is not None:
        raise UserError(
            "--budget is for runs on this machine: name the time of each job with --slurm time=4:00:00"
        )


def _executor(name: Executing | None, slurm: list[str] | None) -> "Executor | None":
    """What does the runs; None for this process."""
    if name == "slurm":
        from depthprune.compare.slurm import slurm_cluster

        return slurm_cluster(slurm or ())
    if name == "local":
        from depthprune.compare.local import Local

        return Local()
    return None


def _limit(share: float | None, drop: float | None) -> tuple[str, float] | None:
    """What `--keep` or `--max-drop` asks for, if one of them does."""
    if share is not None and drop is not None:
        raise UserError("--keep and --max-drop both say how much quality has to stay: give one of them")
    if share is not None and not 0 < share < 1:
        raise UserError(f"--keep {share:g}: it is the share of quality to keep, between 0 and 1")
    if drop is not None and not 0 <= drop < 1:
        raise UserError(f"--max-drop {drop:g}: it is how much accuracy may be lost, from 0 to below 1")
    return next(((by, asked) for by, asked in (("share", share), ("drop", drop)) if asked is not None), None)


def _find_smallest(
    asked: "Grid",
    limit: tuple[str, float],
    output: Path,
    sources: dict[str, Any],
    dry_run: bool,
    as_json: bool,
    executor: "Executor | None",
) -> None:
    from depthprune.cli.compare_display import show_comparison, show_grid
    from depthprune.compare.limit import Limit

    if dry_run:
        from depthprune.compare.estimate import estimate_search

        here = executor is None or not executor.elsewhere
        show_grid(estimate_search(asked, Limit(*limit), output, here, **sources), as_json)
        return
    from depthprune.compare.keep import keep

    show_comparison(keep(asked, Limit(*limit), output, executor, **sources), output, as_json)


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UserError(f"--ratios {text}: write shares with commas between them, such as 0.25,0.4") from None


def parse_seconds(text: str) -> float:
    """Of a time such as 2h, 90min, 1h30m or 45 s."""
    found = re.findall(r"(\d+(?:\.\d+)?)\s*(d|h|min|m|s)", text.lower())
    seconds = sum(float(number) * UNITS[unit[0]] for number, unit in found)
    if "".join(map("".join, found)) != "".join(text.lower().split()) or not seconds:
        raise UserError(f"--budget {text:.100}: write a time, such as 2h, 90min or 1h30min")
    return seconds
