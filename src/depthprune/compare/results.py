"""What the runs of a comparison have found, read from their folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depthprune.compare.grid import Cell
from depthprune.pipeline.folder import RunFolder
from depthprune.pipeline.lent_rows import PER_ROW

FINAL = ("pruned+tuned", "repaired", "pruned", "base+tuned")
"""The row of eval.json that is the outcome of a run: the first of these that is there."""

Measure = tuple[str, str]
"""Dataset and metric."""


@dataclass(frozen=True)
class Result:
    """One run that is done.

    Attributes:
        results: by measure, as in eval.json.
        rows: by measure, the sums and counts of the rows measured.
        tuning: how it was tuned, as JSON of the settings; None where it was not.
        base: the results of the whole model, untuned.
        cut: the results before tuning.
        removed: the layers that went, in the original's numbers.
        seconds: of choosing, of tuning, and of everything.
    """

    method: str
    ratio: float | None
    seed: int
    name: str
    layers: int
    parameters: int
    base_parameters: int
    num_layers: int
    tuning: str | None
    results: dict[Measure, dict[str, Any]]
    rows: dict[Measure, tuple[list[float], list[float]]]
    base: dict[Measure, dict[str, Any]]
    cut: dict[Measure, dict[str, Any]]
    removed: tuple[int, ...]
    seconds: dict[str, float]
    peak_bytes: int


@dataclass(frozen=True)
class Results:
    """All runs of a comparison: those done, those that failed and why, and those still to come.

    `latency` has, by the number of layers, how long a token takes.
    """

    done: list[Result]
    failed: dict[str, str]
    missing: list[str]
    environment: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)


def read_results(cells: Sequence[Cell], runs: Path, failed: Mapping[str, str]) -> Results:
    """Whatever stands in the run folders of these cells now."""
    done, missing, environment = [], [], dict[str, Any]()
    for cell in cells:
        folder = RunFolder(runs / cell.name)
        found = None if cell.name in failed else _read(cell, folder)
        if found is not None:
            done.append(found)
            environment = environment or folder.read_if_whole("environment.json", {})
        elif cell.name not in failed:
            missing.append(cell.name)
    recipe = cells[0].recipe
    sources = {key: getattr(recipe, key) for key in ("model", "train", "eval", "calibration")}
    return Results(done, dict(failed), missing, environment, sources)


def _read(cell: Cell, folder: RunFolder) -> Result | None:
    stages = folder.stamps()
    if "evaluate" not in stages or any(stamp.get("stale") for stamp in stages.values()):
        return None
    evaluation, per_row = folder.read_if_whole("eval.json", {}), folder.read_if_whole(PER_ROW, {})
    rows = evaluation.get("rows", {})
    final = next((name for name in FINAL if name in rows), None)
    if final is None:
        return None
    plan = folder.read_if_whole("plan.json", {})
    row, base = rows[final], rows["base"]
    choosing = [stages[stage] for stage in ("score", "select") if stage in stages]
    return Result(
        method=cell.method,
        ratio=cell.ratio,
        seed=cell.seed,
        name=cell.name,
        layers=row["layers"],
        parameters=row["parameters"],
        base_parameters=base["parameters"],
        num_layers=base["layers"],
        tuning=cell.tuning,
        results=_by_measure(row),
        rows={
            (one["dataset"], one["metric"]): (one["sums"], one["counts"]) for one in per_row.get(final, [])
        },
        base=_by_measure(base),
        cut=_by_measure(rows["pruned"]) if "pruned" in rows else {},
        removed=tuple(plan.get("removed", ())),
        seconds={
            "choosing": sum(stamp["seconds"] for stamp in choosing),
            "tuning": stages.get("train", {}).get("seconds", 0.0),
            "all": sum(stamp["seconds"] for stamp in stages.values()),
        },
        peak_bytes=max((stamp["peak_bytes"] for stamp in choosing), default=0),
    )


def _by_measure(row: Mapping[str, Any]) -> dict[Measure, dict[str, Any]]:
    return {(one["dataset"], one["metric"]): one for one in row["results"]}
