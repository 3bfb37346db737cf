"""What `depthprune evaluate --tasks` prints."""

from typing import Any


def show_tasks(found: dict[str, Any]) -> None:
    """A table of every task's metrics, and how they came about."""
    from depthprune.cli.display import print_line, print_table

    columns = ["task", "version", "shots", "metric", "value", "±", "n"]
    for row in found["rows"].values():
        print_table(columns, [_cells(one) for one in row["tasks"]])
        print_line(_how(row["harness"]))
        print_line(f"the same figures: {row['harness']['command']}")
    if "kept" in found:
        print_line(f"all that lm-eval says: {found['kept']}")


def _cells(one: dict[str, Any]) -> list[str]:
    from depthprune.report.figures import measured

    value, error = one["value"], one["stderr"]
    metric = one["metric"] if one["filter"] == "none" else f"{one['metric']} ({one['filter']})"
    arrow = {True: " ↑", False: " ↓"}.get(one["higher_is_better"], "")
    return [
        one["dataset"],
        str(one["version"]),
        str(one["num_fewshot"]),
        f"{metric}{arrow}",
        "–" if value is None else measured(value),
        "–" if error is None else measured(error, like=value),
        f"{one['n']} of {one['of']}" if "of" in one else str(one["n"]),
    ]


def _how(how: dict[str, Any]) -> str:
    bos = "no BOS" if how["bos"] is None else f"BOS {how['bos']}"
    limit = "every document" if how["limit"] is None else f"the first {how['limit']} documents of a task"
    return (
        f"lm-eval {how['lm_eval']}, {bos}, {limit}, {how['dtype']} on {how['device']}, "
        f"batch size {how['batch_size']}; ± is one standard error"
    )
