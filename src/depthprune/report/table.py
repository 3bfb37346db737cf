"""The table of a run: the base model and its control, the pruned model and its tuned one, on every dataset."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from depthprune.report.figures import count, measured, percent

if TYPE_CHECKING:
    from rich.table import Table

BETTER = {"accuracy": "↑", "exact_match": "↑", "rougeL": "↑", "loss": "↓", "perplexity": "↓"}


@dataclass(frozen=True)
class Column:
    """One metric on one dataset; `majority` is the accuracy of the best constant guess, where there are choices."""

    dataset: str
    metric: str
    n: int
    majority: float | None

    @property
    def heading(self) -> str:
        """The metric, and which way is better."""
        return f"{self.metric} {BETTER.get(self.metric, '')}".strip()


@dataclass(frozen=True)
class Row:
    """One model; `share` is its part of the base's parameters, `results` has one entry or None per column."""

    name: str
    layers: int
    parameters: int
    share: float | None
    results: tuple[dict[str, Any] | None, ...]

    @property
    def size(self) -> str:
        """4.91 M (71.1 %)."""
        return count(self.parameters) + (f" ({percent(self.share)})" if self.share is not None else "")


@dataclass(frozen=True)
class EvaluationTable:
    """Columns and rows in the order of `eval.json`."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def has_majority(self) -> bool:
        return any(column.majority is not None for column in self.columns)

    @property
    def notes(self) -> list[str]:
        """Datasets that say nothing, since no model is clearly above the best constant guess."""
        return [
            f"On {column.dataset} no model is more than two standard errors above the majority class: this dataset "
            "does not show what pruning costs."
            for i, column in enumerate(self.columns)
            if column.majority is not None
            and not any(_above(row.results[i], column.majority) for row in self.rows)
        ]


def _above(result: dict[str, Any] | None, majority: float) -> bool:
    return result is not None and result["value"] - 2 * (result["stderr"] or 0) > majority


def evaluation_table(evaluation: dict[str, Any]) -> EvaluationTable:
    """The table of an `eval.json`."""
    columns: dict[tuple[str, str], Column] = {}
    for row in evaluation["rows"].values():
        for result in row["results"]:
            key = (result["dataset"], result["metric"])
            columns.setdefault(key, Column(*key, result["n"], result.get("majority")))
    base = evaluation["rows"].get("base")
    rows = []
    for name, row in evaluation["rows"].items():
        results = {(result["dataset"], result["metric"]): result for result in row["results"]}
        share = row["parameters"] / base["parameters"] if base else None
        rows.append(Row(name, row["layers"], row["parameters"], share, tuple(results.get(key) for key in columns)))
    return EvaluationTable(tuple(columns.values()), tuple(rows))


def result_text(result: dict[str, Any] | None) -> str:
    """0.7631 ± 0.0106; a dash where a model was not measured."""
    if result is None:
        return "–"
    error = "" if result["stderr"] is None else f" ± {measured(result['stderr'])}"
    return measured(result["value"]) + error


def eval_table(evaluation: dict[str, Any]) -> "Table":
    """The same for a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = evaluation_table(evaluation)
    shown = Table("model")
    shown.add_column("layers", justify="right")
    shown.add_column("parameters", justify="right")
    for column in table.columns:
        shown.add_column(Text(f"{column.dataset}\n{column.heading}"), justify="right", overflow="fold")
    for row in table.rows:
        cells = [row.name, str(row.layers), row.size, *map(result_text, row.results)]
        shown.add_row(*map(Text, cells))
    if table.has_majority:
        guesses = ["" if c.majority is None else measured(c.majority) for c in table.columns]
        shown.add_section()
        shown.add_row("majority class", "", "", *guesses, style="dim")
    return shown
