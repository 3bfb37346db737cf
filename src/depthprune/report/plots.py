"""The figures of the report as inline SVG, coloured by CSS variables of the page, whose theme they follow."""

import io
import math
import re
from typing import TYPE_CHECKING, Any

from depthprune.selection import Plan

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# CSS variable of the page → the colour that stands for it while matplotlib draws.
COLOURS = {"ink": "#1c1e21", "muted": "#5f6670", "rule": "#d9dce1", "paper": "#ffffff"}
COLOURS |= {"kept": "#2f6fab", "removed": "#c2410c", "merged": "#7a3fa0"}
HATCHES = {"kept": "", "removed": "////", "merged": "xxxx"}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": COLOURS["muted"],
    "axes.labelcolor": COLOURS["ink"],
    "xtick.color": COLOURS["muted"],
    "ytick.color": COLOURS["muted"],
    "text.color": COLOURS["ink"],
    "grid.color": COLOURS["rule"],
    "hatch.linewidth": 1.2,
    "legend.frameon": False,
}


def layer_scores(scores: dict[str, Any], plan: Plan | None) -> "Markup":
    """A bar for each layer's score, its fate by colour and pattern; log scale beyond two decades."""
    with _style("scores"):
        figure, axes = _figure(3.2)
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
        _whole_numbers(axes)
        if plan is not None:
            figure.legend(loc="outside upper right", ncols=3)
        return _svg(figure, f"Bar chart of the {scores['metric']} score of each layer")


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

    with _style("course"):
        figure, (above, below) = _figure(4.8, rows=2, sharex=True, height_ratios=(1, 1.6))
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
        _whole_numbers(below)
        figure.colorbar(image, ax=below, label="score of the step", pad=0.01)
        return _svg(
            figure, "The course of the scores: share gathered by each step, and every layer at every step"
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
    with _style("drift"):
        figure, axes = _figure(2.6)
        for when, colour, style, marker in (("before", "removed", "--", "s"), ("after", "kept", "-", "o")):
            axes.plot(
                found["layers"],
                found[when],
                color=COLOURS[colour],
                linestyle=style,
                marker=marker,
                markersize=4,
                label=f"{when} the repair",
            )
        axes.set(xlabel="layer", ylabel="mean drift", ylim=(0, None))
        axes.grid(axis="y")
        _whole_numbers(axes)
        figure.legend(loc="outside upper right", ncols=2)
        return _svg(figure, "The mean drift of each kept layer, before and after the repair")


def loss_curves(losses: list[dict[str, Any]]) -> "Markup":
    """The training loss of the pruned model and, where it was trained, of the whole one."""
    looks = {"train": ("pruned", "removed", "-", "o"), "baseline": ("whole (control)", "kept", "--", "s")}
    with _style("losses"):
        figure, axes = _figure(3.2)
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
        _whole_numbers(axes)
        figure.legend(loc="outside upper right", ncols=2)
        return _svg(figure, "Training loss by optimizer step")


def _style(salt: str) -> Any:
    from matplotlib import rc_context

    # The salt keeps the ids of the page's figures apart, and the same from one rendering to the next.
    return rc_context({**STYLE, "svg.hashsalt": salt})


def _figure(height: float, rows: int = 1, **layout: Any) -> tuple["Figure", Any]:
    """Without pyplot, which would keep figures alive and choose a display."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, height), layout="constrained")
    return figure, figure.subplots(rows, **layout)


def _whole_numbers(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=20, integer=True))
    if not axes.yaxis_inverted():
        return
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _svg(figure: "Figure", label: str) -> "Markup":
    """The figure as an element of the page: no prologue, metadata or style that would reach beyond it."""
    from markupsafe import Markup

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for unwanted in (
        r"<metadata>.*?</metadata>",
        r"<style.*?</style>",
        r"(?<=<g) id=\"[^\"]*\"",
        r"font-family: [^;\"]*;?",
    ):
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return Markup(text.replace("<svg", Markup('<svg role="img" aria-label="{}"').format(label), 1))
