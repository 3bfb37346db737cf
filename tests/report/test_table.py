"""The table that is printed after a run."""

from typing import Any

import pytest
from rich.console import Console
from sample_run import ROWS, sample_evaluation

from depthprune.report import eval_table, evaluation_table
from depthprune.report.table import table_notes, table_warnings


def printed(evaluation: dict[str, Any], width: int) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(eval_table(evaluation))
    return capture.get()


def test_a_model_a_row_and_the_majority_class_last() -> None:
    evaluation = sample_evaluation(("news",))
    headings, *rows = evaluation_table(evaluation)
    assert [str(cell) for cell in headings] == ["model", "layers", "parameters", "news accuracy ↑"]
    assert [str(row[0]) for row in rows] == [*ROWS, "majority class"]
    result = evaluation["rows"]["pruned+tuned"]["results"][0]
    assert str(rows[3][3]) == f"{result['value']:.4f} ±{result['stderr']:.4f}"
    assert str(rows[3][2]) == f"4.96 M ({100 * 4_960_480 / 6_912_160:.1f}%)"
    assert [str(cell) for cell in rows[4]] == ["majority class", "", "", "0.2525"]


def test_many_results_turn_the_table() -> None:
    datasets = ("news", "finance", "arc_easy", "wikitext2-test")
    table = evaluation_table(sample_evaluation(datasets))
    assert [str(cell) for cell in table[0]] == ["model", *ROWS, "majority class"]
    assert [row[0].text for row in table[1:]] == ["layers", "parameters", *datasets]
    assert str(table[-1][-1]) == ""  # perplexity has no majority class


def test_no_majority_row_without_choices() -> None:
    evaluation = sample_evaluation(("news",))
    for row in evaluation["rows"].values():
        del row["results"][0]["majority"]
    assert len(evaluation_table(evaluation)) == 1 + len(ROWS)
    assert not any("majority" in note for note in table_notes(evaluation))


def test_a_single_row_has_no_error_and_a_missing_result_a_dash() -> None:
    evaluation = sample_evaluation(("news",))
    evaluation["rows"]["base"]["results"][0]["stderr"] = None
    evaluation["rows"]["pruned"]["results"] = []
    _, *rows = evaluation_table(evaluation)
    assert rows[0][3].quiet == ""
    assert str(rows[2][3]) == "–"


def test_a_dataset_on_which_all_models_guess_is_named_wherever_the_table_is_printed() -> None:
    evaluation = sample_evaluation(("news", "finance", "text"))
    assert table_warnings(evaluation) == []
    for row in evaluation["rows"].values():
        row["results"][1].update(value=0.27, stderr=0.0111)
    (warning,) = table_warnings(evaluation)
    assert warning.startswith("On finance no model is more than two standard errors above the majority class")
    assert warning in " ".join(printed(evaluation, 100).split())


@pytest.mark.parametrize(
    "datasets", [("news",), ("news", "x", "text"), ("a", "b", "a very long name " * 5, "d", "e")]
)
def test_every_number_is_whole_in_80_columns(datasets: tuple[str, ...]) -> None:
    evaluation = sample_evaluation(datasets)
    text = printed(evaluation, 80)
    assert max(len(line) for line in text.splitlines()) <= 80
    for row in evaluation["rows"].values():
        for result in row["results"]:
            assert f"{result['value']:.{4 if result['value'] < 10 else 2}f}" in text


def test_names_are_no_markup() -> None:
    text = printed(sample_evaluation(("[red]news[/]",)), 120)
    assert "[red]news[/]" in text
