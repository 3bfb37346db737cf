"""The table of a comparison for a terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from depthprune.compare.page import marks
from depthprune.report.figures import count, measured, percent, ranges, seconds
from depthprune.report.table import with_arrow

if TYPE_CHECKING:
    from rich.table import Table


def comparison_table(found: Mapping[str, Any]) -> "Table":
    """A row a method and size; the best of each size is marked ●, what no test tells from it ≈."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    measures = [f"{one['dataset']}\n{with_arrow(one['metric'])}" for one in found["measures"]]
    for i, heading in enumerate(["method", "gone", "parameters", *measures, "choosing", "removed"]):
        table.add_column(Text(heading), justify="right" if i else "left", overflow="fold", vertical="bottom")
    if base := found["base"]:
        values = ["–" if one is None else measured(one["value"]) for one in base["values"]]
        table.add_row("whole, untuned", "–", count(base["parameters"]), *values, "–", "–")
    marked = marks(found)
    for row in found["rows"]:
        cells = [
            _cell(one, marked.get((row["ratio"], row["method"], i))) for i, one in enumerate(row["values"])
        ]
        gone = percent(row["ratio"]) if row["ratio"] else "–"
        removed = ranges(row["removed"][0]) + (" …" if len({*map(tuple, row["removed"])}) > 1 else "")
        table.add_row(
            Text(row["method"]),
            gone,
            count(row["parameters"]),
            *cells,
            seconds(row["seconds"]["choosing"]),
            removed or "–",
        )
    return table


def _cell(one: Mapping[str, Any] | None, mark: str | None) -> str:
    if one is None:
        return "–"
    error = one["stderr"] if one["sd"] is None else one["sd"]
    spread = "" if error is None else f" ±{measured(error, like=one['mean'])}"
    return {"best": "● ", "tied": "≈ "}.get(mark or "", "") + measured(one["mean"]) + spread
