"""The figures of a run's report."""

import math
from typing import TYPE_CHECKING, Any

from depthprune.report.drawing import COLOURS, HATCHES, figure, style, svg, whole_numbers
from depthprune.selection import Plan

if TYPE_CHECKING:
    from markupsafe import Markup


def layer_scores(scores: dict[str, Any], plan: Plan | None) -> "Markup":
    """A bar for each layer's score, its fate by colour and pattern; log scale beyond two decades."""
    with style("scores"):
        drawn, axes = figure(3.2)
        values = scores["scores"]
        bottom = _log_floor(values)
        for name, layers in fates(plan, len(values)).items():
            axes.bar(
                layers,
                [values[i] for i in layers],
                label=name,
                facecolor=COLOURS["kept"] if name == "kept" else COLOURS["paper"],
                edgecolor=COLOURS[name],
                hatch=HATCHES[name],
                width=0.78,
            )
        if bottom is not None:
            axes.set_yscale("log")
            axes.set_ylim(bottom=bottom)
        axes.set_xlim(-0.6, len(values) - 0.4)
        axes.set(
            xlabel="layer", ylabel=f"{scores['metric']} score" + ("" if bottom is None else " (log scale)")
        )
        whole_numbers(axes)
        if plan is not None:
            drawn.legend(loc="outside upper right", ncols=3)
        return svg(drawn, f"Bar chart of the {scores['metric']} score of each layer")


def fates(plan: Plan | None, num_layers: int) -> dict[str, list[int]]:
    """What became of each layer: kept, removed, or removed after being merged into another."""
    if plan is None:
        return {"kept": list(range(num_layers))}
    found: dict[str, list[int]] = {"kept": list(plan.kept)}
    found["removed"] = [i for i in plan.removed if i not in plan.merged_into]
    found["merged"] = sorted(plan.merged_into)
    return {name: layers for name, layers in found.items() if layers}


def _log_floor(values: list[float]) -> float | None:
    """Where a log axis begins; None where a linear one serves: a value below zero, or at most two decades."""
    positive = [value for value in values if value > 0]
    if min(values) < 0 or not positive or max(positive) <= 100 * min(positive):
        return None
    return min(positive) / 3


def course(steps: list[list[float]]) -> "Markup":
    """Above, the share of all scores gathered by each step; below, every layer's score at every step."""
    from matplotlib.colors import LogNorm
    from numpy import array, ma

    with style("course"):
        drawn, (above, below) = figure(4.8, rows=2, sharex=True, height_ratios=(1, 1.6))
        t, num_layers = len(steps), len(steps[0])
        above.plot(range(1, t + 1), gathered(steps), color=COLOURS["kept"], marker=".", linewidth=1.8)
        above.set(ylabel="share gathered", ylim=(0, 1.04))
        above.grid(axis="y")
        image = below.imshow(
            ma.masked_less_equal(array(steps).T, 0),
            norm=LogNorm(),
            cmap="viridis",
            aspect="auto",
            interpolation="none",
            extent=(0.5, t + 0.5, num_layers - 0.5, -0.5),
        )
        below.set(xlabel="step", ylabel="layer")
        whole_numbers(below)
        drawn.colorbar(image, ax=below, label="score of the step", pad=0.01)
        return svg(
            drawn, "The course of the scores: share gathered by each step, and every layer at every step"
        )


def gathered(steps: list[list[float]]) -> list[float]:
    """Σ over layers and steps so far / Σ over all, after each step."""
    sums, so_far = [math.fsum(step) for step in steps], 0.0
    shares = []
    for step in sums:
        so_far += step
        shares.append(so_far / math.fsum(sums))
    return shares


def drift(found: dict[str, Any]) -> "Markup":
    """How far the mean output of each kept layer lies from the original's, before and after the repair."""
    with style("drift"):
        drawn, axes = figure(2.6)
        for when, colour, line, marker in (("before", "removed", "--", "s"), ("after", "kept", "-", "o")):
            axes.plot(
                found["layers"],
                found[when],
                color=COLOURS[colour],
                linestyle=line,
                marker=marker,
                markersize=4,
                label=f"{when} the repair",
            )
        axes.set(xlabel="layer", ylabel="mean drift", ylim=(0, None))
        axes.grid(axis="y")
        whole_numbers(axes)
        drawn.legend(loc="outside upper right", ncols=2)
        return svg(drawn, "The mean drift of each kept layer, before and after the repair")


def loss_curves(losses: list[dict[str, Any]]) -> "Markup":
    """The training loss of the pruned model and, where it was trained, of the whole one."""
    looks = {"train": ("pruned", "removed", "-", "o"), "baseline": ("whole (control)", "kept", "--", "s")}
    with style("losses"):
        drawn, axes = figure(3.2)
        for stage, (label, colour, line, marker) in looks.items():
            points = [
                (entry["step"], entry["loss"])
                for entry in losses
                if entry["stage"] == stage and "loss" in entry
            ]
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    line,
                    color=COLOURS[colour],
                    label=label,
                    linewidth=1.8,
                    marker=marker,
                    markersize=3.5,
                    markevery=max(1, len(points) // 12),
                )
        axes.set(xlabel="optimizer step", ylabel="training loss (nats a token)")
        axes.grid(axis="y")
        whole_numbers(axes)
        drawn.legend(loc="outside upper right", ncols=2)
        return svg(drawn, "Training loss by optimizer step")
