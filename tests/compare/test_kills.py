"""A comparison killed at ten moments ends with the same table."""

import random

import pytest
from compare.killed import start_and_kill
from compare.test_compare import cells

from depthprune.compare import compare


@pytest.mark.slow
def test_killed_at_ten_moments_it_ends_with_the_same_table(tmp_path):
    grid = cells(tmp_path, recipes=("gradpruner", "sleb"), ratios=(0.34, 0.5), baseline=True)
    whole = compare(grid, tmp_path / "whole")
    draw, runs = random.Random(0), tmp_path / "out/runs"
    for _ in range(10):
        before = _changes(runs)
        start_and_kill(
            grid, tmp_path / "out", lambda before=before: _changes(runs) > before, draw.uniform(0, 3)
        )
    again = compare(grid, tmp_path / "out")
    for key in ("base", "kept", "sentences", "failed", "missing", "measures"):
        assert _without_cost(again[key]) == _without_cost(whole[key])
    for one, other in zip(again["rows"], whole["rows"], strict=True):
        for key in ("method", "ratio", "seeds", "removed", "values", "cut", "parameters"):
            assert one[key] == other[key]


def _changes(runs):
    """How far the runs have come, in files that are there."""
    return sum(1 for _ in runs.rglob("*"))


def _without_cost(found):
    if isinstance(found, dict):
        return {key: value for key, value in found.items() if key not in ("seconds", "peak_bytes")}
    return found
