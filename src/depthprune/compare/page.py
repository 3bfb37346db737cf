"""The report of a comparison: one HTML file, no network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from depthprune.compare.plots import METHODS, trade_off
from depthprune.report import figures
from depthprune.report.table import BETTER

DARK = ("#6fb1ec", "#ff9a62", "#a8cf5f", "#c99cf0", "#4fd1c5", "#e5b94e", "#f58fbf", "#a3b1c6")
"""The colours of the methods on a dark page."""


def html_page(found: Mapping[str, Any]) -> str:
    """The content of `report.html`, of that of `comparison.json`."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    jinja = Environment(
        loader=ChoiceLoader([PackageLoader("depthprune.compare"), PackageLoader("depthprune.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for show in (
        figures.seconds,
        figures.size,
        figures.percent,
        figures.plural,
        figures.count,
        figures.ranges,
    ):
        jinja.filters[show.__name__] = show
    jinja.filters["measured"] = figures.measured
    return jinja.get_template("compare.html.j2").render(
        found=found,
        name=Path(str(found["model"])).name,
        headings=[_heading(measure) for measure in found["measures"]],
        charts=_charts(found),
        marks=marks(found),
        matrix=_matrix(found),
        light=METHODS,
        dark=DARK,
    )


def _heading(measure: Mapping[str, str]) -> tuple[str, str]:
    return measure["dataset"], f"{measure['metric']}{BETTER.get(measure['metric'], '')}"


def _charts(found: Mapping[str, Any]) -> list[Any]:
    """Of each dataset, by the measure that is asked first."""
    first: dict[str, int] = {}
    for number, measure in enumerate(found["measures"]):
        first.setdefault(measure["dataset"], number)
    rows = found["rows"]
    return [
        trade_off(rows, found["base"], number, f"{found['measures'][number]['metric']} on {dataset}")
        for dataset, number in first.items()
        if any(row["values"][number] for row in rows)
    ]


def marks(found: Mapping[str, Any]) -> dict[tuple[float | None, str, int], str]:
    """(ratio, method, number of the measure) → `best`, or `tied` where no test tells it from the best."""
    numbers = {(one["dataset"], one["metric"]): i for i, one in enumerate(found["measures"])}
    tests: dict[tuple[float | None, int], list[Mapping[str, Any]]] = {}
    for one in found["differences"]:
        number = numbers[one["measure"]["dataset"], one["measure"]["metric"]]
        tests.setdefault((one["ratio"], number), []).append(one)
    marked: dict[tuple[float | None, str, int], str] = {}
    for (ratio, number), mine in tests.items():
        best = set.intersection(*({one["better"], one["worse"]} for one in mine))
        leader = mine[0]["better"] if mine[0]["better"] in best else next(iter(best))
        marked[ratio, leader, number] = "best"
        for one in mine:
            if not one["settled"]:
                marked[ratio, one["worse"] if one["better"] == leader else one["better"], number] = "tied"
    return marked


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
