"""A comparison that has to end in time."""

import json

import pytest
from compare.test_compare import cells

from depthprune import UserError
from depthprune.cli.compare_verb import parse_seconds
from depthprune.compare import compare
from depthprune.compare.budget import Budget, Times
from depthprune.compare.estimate import estimate_grid

UNTRAINED = {
    "training.method": "none",
    "selection.guard": "none",
    "calibration_samples.samples": 8,
    "calibration_samples.length": 16,
}


def test_what_does_not_fit_is_left_and_done_by_the_next_call(tmp_path):
    given = {"recipes": ("reverse",), "settings": UNTRAINED}
    one, two = cells(tmp_path, **given), cells(tmp_path, **given, seeds=2)
    before = estimate_grid(one, tmp_path / "out")
    assert before["seconds"] >= 0 and before["seconds_by"] == "first batches"
    assert not (tmp_path / "out").exists()
    compare(one, tmp_path / "out")
    found = compare(two, tmp_path / "out", budget=0.0)
    assert found == json.loads((tmp_path / "out/comparison.json").read_text())
    assert [row["seeds"] for row in found["rows"]] == [[1]]
    assert found["missing"] == [two[1].name] and not found["failed"]
    after = estimate_grid(two, tmp_path / "out")
    assert after["seconds"] > 0 and after["seconds_by"] == "runs"
    found = compare(two, tmp_path / "out", budget=3600.0)
    assert [row["seeds"] for row in found["rows"]] == [[1, 2]] and not found["missing"]


def test_the_longest_of_the_runs_most_like_it_is_expected(tmp_path):
    grid = cells(tmp_path, ratios=(0.34, 0.5), seeds=2, baseline=True)
    by = {(cell.method, cell.ratio, cell.seed): cell for cell in grid}
    budget, times = Budget(100.0), Times()
    budget.times = times
    assert times.expected(grid[0]) == 0.0 and budget.allows(grid[0])
    times.add(by["dense", None, 1], 90.0)
    assert times.expected(by["reverse", 0.34, 1]) == 90.0
    for one, seconds in ((("reverse", 0.34, 1), 5.0), (("reverse", 0.5, 1), 7.0), (("random", 0.34, 1), 3.0)):
        times.add(by[one], seconds)
    asked = [("reverse", 0.34, 2), ("random", 0.5, 1), ("dense", None, 2), ("dense", None, 1)]
    assert [times.expected(by[one]) for one in asked] == [5.0, 3.0, 90.0, 0.0]
    # Seed 1 lacks random at 0.5; of seed 2 nothing is done.
    assert times.left(grid) == 3.0 + 90.0 + 5.0 + 7.0 + 3.0 + 3.0
    times.took = {by["dense", None, 1].name: (by["dense", None, 1], 200.0)}
    assert not budget.allows(by["reverse", 0.34, 1])


def test_a_seed_of_all_comes_before_the_next_and_controls_before_what_they_control(tmp_path):
    grid = cells(tmp_path, ratios=(0.34, 0.5), seeds=2, baseline=True)
    assert [cell.seed for cell in grid] == [1] * 5 + [2] * 5
    assert [cell.method for cell in grid[:2]] == ["dense", "reverse"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h", 7200),
        ("90min", 5400),
        ("90 m", 5400),
        ("1h30min", 5400),
        ("1.5h", 5400),
        ("45S", 45),
        ("1d", 86400),
    ],
)
def test_times_as_people_write_them(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2 weeks", "-1h", "0h", "1h and 3m", "nan"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UserError, match="such as 2h"):
        parse_seconds(text)
