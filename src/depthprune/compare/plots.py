"""The figures of a comparison."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from depthprune.evaluation.measurement import LOWER_IS_BETTER
from depthprune.report.drawing import COLOURS, figure, style, svg

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = ("#2f6fab", "#c2410c", "#5a7d1f", "#7a3fa0", "#0f766e", "#a16207", "#be185d", "#475569")
VARIABLES = {
    **{f"method-{i}": colour for i, colour in enumerate(METHODS)},
    **{name: COLOURS[name] for name in ("ink", "muted", "rule", "paper")},
}
"""CSS variable of the page → the colour that stands for it, as in `drawing.COLOURS`."""
MARKERS = "osD^vPX*"
FRONT = "Pareto front"
DODGE = 0.2
"""Points of equal size stand this far apart, in percent, so that their bars can be told apart."""
SHAPES: dict[str, tuple[float, float, dict[str, Any]]] = {
    "broad": (9.0, 4.0, {"loc": "outside right upper"}),
    "narrow": (4.6, 4.4, {"loc": "outside lower left", "ncols": 2}),
}
"""Inches of a figure, and where its methods are named: on a phone below it."""
COSTS: dict[str, tuple[str, Callable[[Mapping[str, Any]], float]]] = {
    "parameters": ("parameters", lambda row: row["share"]),
    "latency": ("time of a token", lambda row: row["latency"]["share"]),
}
"""What quality is drawn against: in words, and of a row as a share of the whole model's."""


def trade_off(
    rows: Sequence[Mapping[str, Any]],
    base: Mapping[str, Any],
    number: int,
    title: str,
    shape: str = "broad",
    against: str = "parameters",
) -> "Markup":
    """Quality against a cost: a line a method, with its spread over seeds, and the Pareto front.

    Where the whole model was tuned it is a method as the others, and the untuned one stays away: often so far
    off that the others could not be told apart.

    Args:
        number: of the measure, among those of each row.
        title: of the measure, for the axis.
        shape: of SHAPES.
        against: of COSTS, which each row with a value has to know.
    """
    width, height, place = SHAPES[shape]
    words, cost = COSTS[against]
    points = [{**row, "share": cost(row)} for row in rows if row["values"][number] is not None]
    with style(f"{against}-{number}-{shape}"):
        drawn, axes = figure(height, width=width)
        _draw_methods(axes, points, number)
        if (whole := base["values"][number]) is not None and all(row["ratio"] is not None for row in points):
            _draw_whole(axes, whole["value"])
        _draw_front(
            axes, pareto([(row["share"], row["values"][number]["mean"]) for row in points], _lower(title))
        )
        axes.set(xlabel=f"{words}, % of the whole model's", ylabel=title)
        axes.grid(axis="y")
        if _lower(title) and _far_apart(points, number):
            axes.set_yscale("log")
        _draw_legend(drawn, axes, place)
        return svg(drawn, f"{title} against {words}, a line for each method", VARIABLES)


def _draw_methods(axes: "Axes", points: Sequence[Mapping[str, Any]], number: int) -> None:
    methods = list(dict.fromkeys(row["method"] for row in points))
    beside = {
        row["share"]: [one["method"] for one in points if one["share"] == row["share"]] for row in points
    }
    for i, method in enumerate(methods):
        mine = sorted((row for row in points if row["method"] == method), key=lambda row: row["share"])
        axes.errorbar(
            [100 * row["share"] + DODGE * _place(method, beside[row["share"]]) for row in mine],
            [row["values"][number]["mean"] for row in mine],
            yerr=[_spread(row["values"][number]) for row in mine],
            color=METHODS[i % len(METHODS)],
            marker=MARKERS[i % len(MARKERS)],
            linewidth=1.6,
            markersize=6,
            capsize=3,
            label=method,
        )


def _place(method: str, beside: Sequence[str]) -> float:
    """Among those of equal size, counted from the middle."""
    return beside.index(method) - (len(beside) - 1) / 2


def _draw_legend(drawn: "Figure", axes: "Axes", place: Mapping[str, Any]) -> None:
    """The methods, and last the front, which matplotlib would put first."""
    named = sorted(zip(*axes.get_legend_handles_labels(), strict=True), key=lambda one: one[1] == FRONT)
    drawn.legend([handle for handle, _ in named], [label for _, label in named], **place)


def _draw_whole(axes: "Axes", value: float) -> None:
    axes.plot([100], [value], marker="*", markersize=11, color=COLOURS["ink"], linestyle="none")
    axes.annotate("whole, untuned", (100, value), xytext=(-8, 6), textcoords="offset points", ha="right")


def _draw_front(axes: "Axes", front: Sequence[tuple[float, float]]) -> None:
    if len(front) > 1:
        shares, values = zip(*front, strict=True)
        axes.plot(
            [100 * share for share in shares],
            values,
            color=COLOURS["muted"],
            linestyle=":",
            linewidth=1.4,
            label=FRONT,
            zorder=0,
        )


def pareto(points: Sequence[tuple[float, float]], lower_is_better: bool = False) -> list[tuple[float, float]]:
    """Those that no other beats in both: fewer parameters and better quality; ascending."""
    sign = -1.0 if lower_is_better else 1.0
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not front or sign * y > sign * front[-1][1]:
            front.append((x, y))
    return front


def _lower(title: str) -> bool:
    return title.split()[0] in LOWER_IS_BETTER


def _far_apart(points: Sequence[Mapping[str, Any]], number: int) -> bool:
    values = [row["values"][number]["mean"] for row in points]
    return max(values) > 10 * min(values) > 0


def _spread(value: Mapping[str, Any]) -> float:
    """Over seeds, or of one seed over its rows."""
    return float((value["stderr"] or 0.0) if value["sd"] is None else value["sd"])
