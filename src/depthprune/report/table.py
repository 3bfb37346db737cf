"""The table of a run: base model, tuned base, pruned and tuned model, on every dataset."""

from typing import TYPE_CHECKING, Any, NamedTuple

from depthprune.evaluation.measurement import LOWER_IS_BETTER
from depthprune.report.figures import count, measured, percent

if TYPE_CHECKING:
    from rich.table import Table

HIGHER_IS_BETTER = ("accuracy", "exact_match", "rougeL", "bert_score")
WIDEST = 3


class Cell(NamedTuple):
    """What a cell says first, what it adds more quietly, and the exact number behind it."""

    text: str = ""
    quiet: str = ""
    value: float | None = None

    def __str__(self) -> str:
        return f"{self.text} {self.quiet}".strip()


def evaluation_table(evaluation: dict[str, Any]) -> list[list[Cell]]:
    """The table of an `eval.json`: a row of headings, a row a model, last the majority class if there is one.

    With more than three results a model it is turned on its side, a model a column, so that it fits a page.
    """
    rows = evaluation["rows"]
    results = {name: {_key(result): result for result in row["results"]} for name, row in rows.items()}
    measures = {key: result for by_key in results.values() for key, result in by_key.items()}
    headings = [Cell(dataset, with_arrow(metric)) for dataset, metric in measures]
    table = [[Cell("model"), Cell("layers"), Cell("parameters"), *headings]]
    for name, row in rows.items():
        measurements = [_result(results[name].get(key)) for key in measures]
        table.append([Cell(name), Cell(str(row["layers"])), _size(row, rows.get("base")), *measurements])
    if any("majority" in result for result in measures.values()):
        table.append([Cell("majority", "class"), Cell(), Cell(), *map(_majority, measures.values())])
    return table if len(measures) <= WIDEST else [list(row) for row in zip(*table, strict=True)]


def with_arrow(metric: str) -> str:
    """A metric's name, and whether more or less of it is better where that is known."""
    better = " ↓" if metric in LOWER_IS_BETTER else " ↑" if metric in HIGHER_IS_BETTER else ""
    return f"{metric}{better}"


def _key(result: dict[str, Any]) -> tuple[str, str]:
    return result["dataset"], result["metric"]


def _result(result: dict[str, Any] | None) -> Cell:
    """0.7631 ±0.0106; a dash where a model was not measured."""
    if result is None:
        return Cell("–")
    value, error = result["value"], result["stderr"]
    return Cell(measured(value), "" if error is None else f"±{measured(error, like=value)}", value)


def _size(row: dict[str, Any], base: dict[str, Any] | None) -> Cell:
    share = f"({percent(row['parameters'] / base['parameters'])})" if base else ""
    return Cell(count(row["parameters"]), share, row["parameters"])


def _majority(result: dict[str, Any]) -> Cell:
    share = result.get("majority")
    return Cell() if share is None else Cell(measured(share), value=share)


def table_notes(evaluation: dict[str, Any]) -> list[str]:
    """What ± and the majority class mean."""
    results = _all_results(evaluation)
    counts = ", ".join(dict.fromkeys(map(_counted, results)))
    notes = [f"± is one standard error over the rows or windows measured ({counts}), for one seed."]
    if any("majority" in result for result in results):
        notes.append("The majority class is what always giving the commonest answer would score.")
    return notes


def _counted(result: dict[str, Any]) -> str:
    """128 of news, or 32 of the 140 of wikitext."""
    n, name = result["n"], result["dataset"]
    return f"{n} of the {result['of']} of {name}" if "of" in result else f"{n} of {name}"


def table_warnings(evaluation: dict[str, Any]) -> list[str]:
    """Datasets on which every model may as well be guessing."""
    guessable = [result for result in _all_results(evaluation) if "majority" in result]
    beaten = {_key(r) for r in guessable if r["value"] - 2 * (r["stderr"] or 0) > r["majority"]}
    return [
        f"On {dataset} no model is more than two standard errors above the majority class: it does not show "
        "what pruning costs."
        for dataset, metric in dict.fromkeys(map(_key, guessable))
        if (dataset, metric) not in beaten
    ]


def _all_results(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    return [result for row in evaluation["rows"].values() for result in row["results"]]


def eval_table(evaluation: dict[str, Any]) -> "Table":
    """The same for a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    headings, *rows = evaluation_table(evaluation)
    turned = headings[1].text != "layers"
    warnings = Text("\n".join(table_warnings(evaluation)))
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, caption=warnings or None, caption_justify="left")
    for i, heading in enumerate(headings):
        text = Text(f"{heading.text}\n{heading.quiet}".strip())
        shown.add_column(
            text,
            justify="right" if i else "left",
            overflow="fold",
            vertical="bottom",
            no_wrap=turned and i > 0,
        )
    between = "\n" if turned else " "
    for row in rows:
        shown.add_row(
            *(Text(cell.text).append(between * bool(cell.quiet) + cell.quiet, style="dim") for cell in row)
        )
    return shown
