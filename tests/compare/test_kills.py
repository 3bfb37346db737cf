"""A comparison killed at ten moments ends with the same table."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time

import pytest
from compare.test_compare import cells

from depthprune.compare import compare

CALL = (
    "import pickle, sys; from depthprune.compare import compare;"
    "compare(pickle.load(open(sys.argv[1], 'rb')), sys.argv[2])"
)


@pytest.mark.slow
def test_killed_at_ten_moments_it_ends_with_the_same_table(tmp_path):
    grid = cells(tmp_path, recipes=("gradpruner", "sleb"), ratios=(0.34, 0.5), baseline=True)
    whole = compare(grid, tmp_path / "whole")
    (tmp_path / "grid.pickle").write_bytes(pickle.dumps(grid))
    call = [sys.executable, "-c", CALL, str(tmp_path / "grid.pickle"), str(tmp_path / "out")]
    draw, runs = random.Random(0), tmp_path / "out/runs"
    for _ in range(10):
        before = _changes(runs)
        process = subprocess.Popen(
            call, stderr=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        while process.poll() is None and _changes(runs) <= before:
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 3))
        process.send_signal(signal.SIGKILL)
        process.wait()
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
