"""The report of a comparison: one HTML file, no network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depthprune.compare.noise import Difference, standing
from depthprune.compare.plots import METHODS, SHAPES, trade_off
from depthprune.report.pages import templates
from depthprune.report.table import with_arrow

DARK = ("#6fb1ec", "#ff9a62", "#a8cf5f", "#c99cf0", "#4fd1c5", "#e5b94e", "#f58fbf", "#a3b1c6")
"""The colours of the methods on a dark page."""


def html_page(found: Mapping[str, Any]) -> str:
    """The content of `report.html`, of that of `comparison.json`."""
    return (
        templates("depthprune.compare")
        .get_template("compare.html.j2")
        .render(
            found=found,
            name=Path(str(found["model"])).name,
            headings=[(one["dataset"], with_arrow(one["metric"])) for one in found["measures"]],
            charts=_charts(found),
            latency=_latency(found),
            marks=marks(found),
            matrix=_matrix(found),
            alike=alike(found["rows"]),
            light=METHODS,
            dark=DARK,
        )
    )


def _latency(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """The charts against it, and how it was measured; None where that was not done for every row."""
    each = [row.get("latency") for row in found["rows"]]  # files without it are older
    measured = [one for one in each if one is not None and one["error"]]
    if not measured or None in each:
        return None
    return {
        "charts": _charts(found, "latency"),
        "of": measured[0]["of"],
        "error": max(one["error"] for one in measured),
    }


def _charts(found: Mapping[str, Any], against: str = "parameters") -> list[dict[str, Any]]:
    """Of each dataset, by the measure that is asked first; in each shape, of which the page shows one."""
    first: dict[str, tuple[int, str]] = {}
    for number, measure in enumerate(found["measures"]):
        first.setdefault(measure["dataset"], (number, f"{measure['metric']} on {measure['dataset']}"))
    rows = found["rows"]
    return [
        {shape: trade_off(rows, found["base"], number, title, shape, against) for shape in SHAPES}
        for number, title in first.values()
        if any(row["values"][number] for row in rows)
    ]


def marks(found: Mapping[str, Any]) -> dict[tuple[float | None, str, int], str]:
    """(ratio, method, number of the measure) → `best`, or `tied` where no test tells it from the best."""
    numbers = {(one["dataset"], one["metric"]): i for i, one in enumerate(found["measures"])}
    tests: dict[tuple[float | None, int], list[Difference]] = {}
    for one in found["differences"]:
        number = numbers[one["measure"]["dataset"], one["measure"]["metric"]]
        own = {name: value for name, value in one.items() if name not in ("ratio", "measure")}
        tests.setdefault((one["ratio"], number), []).append(Difference(**own))
    marked: dict[tuple[float | None, str, int], str] = {}
    for (ratio, number), mine in tests.items():
        best, _, tied = standing(mine)
        marked |= {(ratio, method, number): "tied" for method in tied} | {(ratio, best, number): "best"}
    return marked


def alike(rows: Sequence[Mapping[str, Any]]) -> str:
    """Whether the shares in `all`, `some` or `none` of the rows are of a whole model that was tuned alike."""
    known = [row.get("kept_of") is not None for row in rows]  # a file without it has shares of the untuned
    return "all" if all(known) else "some" if any(known) else "none"


def _matrix(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """For each method and size, in how many of its runs each layer goes; and in how many of all."""
    rows = [row for row in found["rows"] if row["ratio"] is not None]
    if not rows:
        return None
    layers = range(rows[0]["num_layers"])
    shares = [[sum(i in run for run in row["removed"]) / len(row["removed"]) for i in layers] for row in rows]
    return {
        "layers": list(layers),
        "rows": list(zip(rows, shares, strict=True)),
        "all": [sum(share[i] for share in shares) / len(shares) for i in layers],
    }
