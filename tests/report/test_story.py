"""Sentences about a run, against what is counted by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from sample_run import sample_run, sample_scores

from depthprune.report.artifacts import read_artifacts
from depthprune.report.figures import measured, ranges, seconds, size
from depthprune.report.plots import gathered
from depthprune.report.story import course_notes, scored_linears, settled_since, summary


@pytest.mark.parametrize(
    ("until", "said"),
    [
        ("score", ["The 16 layers of M were scored by igia over 160 samples; none was removed yet."]),
        (
            "select",
            [
                "6 of 16 layers of M are to be removed, chosen by igia over 160 samples, one-shot; "
                "the model is not written yet."
            ],
        ),
        (
            "train",
            [
                "6 of 16 layers of M were removed, chosen by igia over 160 samples, one-shot; ",
                "1 of them was first merged into the kept layer before it. ",
                "What remains was fine-tuned (LoRA, the adapters merged).",
            ],
        ),
    ],
)
def test_the_summary_says_how_far_the_run_came(tmp_path: Path, until: str, said: list[str]) -> None:
    assert summary(read_artifacts(sample_run(tmp_path, until=until).root), "M") == "".join(said)


def test_an_explicit_list_was_not_chosen_by_scores(tmp_path: Path) -> None:
    run = read_artifacts(sample_run(tmp_path, until="prune").root)
    assert run.plan is not None
    one = replace(run, plan=replace(run.plan, removed=(7,), merged_into={}, selection="explicit"))
    assert summary(one, "M") == "1 of 16 layers of M was removed, as listed."


def test_the_order_settles_where_the_lowest_layers_stop_changing() -> None:
    steps = [[1.0, 2.0, 3.0], [5.0, 0.0, 0.0], [0.0, 0.0, 1.0]]  # sums: 1 2 3, 6 2 3, 6 2 4
    assert settled_since(steps, removed=1) == 2  # layer 0, then 1, then 1
    assert settled_since(steps, removed=2) == 2
    assert settled_since([[1.0, 2.0], [1.0, 2.0]], removed=1) == 1
    assert settled_since([[1.0, 2.0], [9.0, 2.0]], removed=1) == 2


def test_the_course_counts_empty_steps_and_the_last_quarter() -> None:
    steps = [[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]
    assert gathered(steps) == [0.0, 0.0, 0.25, 1.0]
    assert course_notes(steps)[0].startswith("2 steps gave nothing")
    assert "The last step of 4 gave 75.0% of the score." in course_notes(steps)


def test_linears_are_counted_over_the_layers() -> None:
    names = {"self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj"}
    assert scored_linears(sample_scores(12)["scored"]) == dict.fromkeys(names, 12)


def test_figures() -> None:
    assert ranges([0, 2, 3, 4, 9]) == "0,2-4,9"
    assert [measured(v) for v in (0.76312, 55.0249, 1204.4, 3.14e9)] == [
        "0.7631",
        "55.02",
        "1,204",
        "3.1e+09",
    ]
    assert measured(0.8111, like=55.02) == "0.81"
    assert [seconds(v) for v in (0.412, 12.34, 59.97, 252, 3600 * 2 + 300)] == [
        "0.41 s",
        "12.3 s",
        "1 min 00 s",
        "4 min 12 s",
        "2 h 05 min",
    ]
    assert [size(v) for v in (812 * 2**20, 15.8 * 2**30)] == ["812 MiB", "15.80 GiB"]
