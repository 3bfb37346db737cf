"""The figures draw what they are given."""

import math
import re

import pytest
from sample_run import sample_losses, sample_plan, sample_scores

from depthprune.report.plots import course, fates, layer_scores, loss_curves


def words(svg: str) -> set[str]:
    return {
        re.sub("<[^>]*>", "", text).strip() for text in re.findall(r"<text.*?</text>", svg, flags=re.DOTALL)
    }


def axis(svg: str) -> str:
    return next(word for word in words(svg) if "score" in word)


def test_a_bar_and_a_pattern_for_each_fate() -> None:
    scores = sample_scores()
    svg = layer_scores(scores, sample_plan(scores["scores"], removed=6, merged=1))
    assert {"kept", "removed", "merged", "layer"} <= words(svg)
    assert len(re.findall("<pattern", svg)) == 2
    assert svg.count("var(--merged)") > 0


def test_without_a_plan_no_layer_is_said_to_be_kept() -> None:
    assert "kept" not in words(layer_scores(sample_scores(), None))


@pytest.mark.parametrize(
    ("values", "log"),
    [
        ([1.0, 50.0, 100.0], False),
        ([1.0, 50.0, 101.0], True),
        ([0.0, 1.0, 500.0], True),
        ([-1.0, 1.0, 500.0], False),
    ],
)
def test_the_scale_is_logarithmic_beyond_two_orders(values: list[float], log: bool) -> None:
    assert axis(layer_scores({"metric": "m", "scores": values}, None)) == (
        "m score (log scale)" if log else "m score"
    )


def test_equal_and_zero_scores_are_drawn() -> None:
    assert "layer" in words(layer_scores({"metric": "m", "scores": [0.0, 0.0]}, None))
    assert "layer" in words(layer_scores({"metric": "m", "scores": [2.0] * 80}, None))


def test_every_layer_has_one_fate() -> None:
    plan = sample_plan(sample_scores()["scores"], removed=6, merged=2)
    found = fates(plan, 16)
    assert sorted(i for layers in found.values() for i in layers) == list(range(16))
    assert found["merged"] == sorted(plan.merged_into)


def test_the_course_of_three_steps_and_two_layers() -> None:
    assert {"step", "layer", "share gathered"} <= words(course([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]]))


def test_a_curve_for_each_training_that_ran() -> None:
    both = sample_losses()
    assert {"pruned", "whole (control)"} <= words(loss_curves(both))
    assert "whole (control)" not in words(loss_curves([line for line in both if line["stage"] == "train"]))
    assert "pruned" in words(loss_curves([{"stage": "train", "loss": math.nan, "step": 1}]))


def test_the_same_figure_twice_is_the_same_text() -> None:
    assert loss_curves(sample_losses()) == loss_curves(sample_losses())
