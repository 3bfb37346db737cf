"""What `compare` prints."""

from pathlib import Path
from typing import Any

from depthprune.cli.display import console, print_json, print_line, print_table, size
from depthprune.compare.terminal import comparison_table
from depthprune.cost import spoken
from depthprune.errors import plain_values

TIMES = {
    "runs": "time for the rest: {}, if each takes as long as those like it did",
    "first batches": "tuning and measuring: {} or more, by the first batches of the whole model; loading, "
    "choosing layers, teachers and repairs come on top",
}
"""What an estimate of the time says, by what it is made from."""


def show_comparison(found: dict[str, Any], folder: Path, as_json: bool) -> None:
    """The table of a comparison, and what its tests allow to say."""
    if as_json:
        print_json(found)
        return
    console.print(comparison_table(plain_values(found)))
    for sentence in found["sentences"]:
        print_line(sentence)
    for name, why in found["failed"].items():
        print_line(f"{name} failed: {why}")
    if found["missing"]:
        print_line(f"{len(found['missing'])} runs are left: the same command goes on with them")
    print_line(f"{folder}/report.html: the report; every run is a model in {folder}/runs")


def show_grid(found: dict[str, Any], as_json: bool) -> None:
    """The runs of a comparison that has not started."""
    if as_json:
        print_json(found)
        return
    rows = [
        [
            one["run"],
            str(one["layers"]),
            f"{one['parameters']:,}",
            " + ".join(f"{count} {name}" for name, count in one["steps"].items()) or "–",
            "done" if one["done"] else size(one["disk"]),
        ]
        for one in found["runs"]
    ]
    if rows:
        print_table(["run", "layers", "parameters", "steps", "disk"], rows)
    for one in found.get("search", ()):
        print_line(f"the search adds at most {one['runs']} runs of {one['method']}, {size(one['disk'])}")
    print_line(f"disk needed: {size(found['disk_needed'])}, free: {size(found['disk_free'])}")
    if found["seconds"]:
        print_line(TIMES[found["seconds_by"]].format(spoken(found["seconds"])))
