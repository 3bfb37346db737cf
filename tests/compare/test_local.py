"""Several runs at once on this machine: the table is that of one after the other."""

import json
import os

import pytest
from compare.test_budget import UNTRAINED
from compare.test_compare import cells

from depthprune import UserError
from depthprune.compare import compare
from depthprune.compare.local import Local
from depthprune.compare.memory import free_memory, most_needed
from depthprune.compare.sharing import first_to_do

SAME = ("method", "ratio", "seeds", "layers", "parameters", "removed", "values", "cut", "kept_of", "runs")


def figures(found):
    """All of a comparison that does not depend on how fast it was."""
    rows = [{key: row[key] for key in SAME} for row in found["rows"]]
    return rows, found["base"], found["sentences"], found["differences"], found["failed"], found["missing"]


@pytest.mark.slow
def test_the_table_is_that_of_one_after_the_other_and_scores_are_computed_once(tmp_path):
    grid = cells(tmp_path, recipes=("shortgpt",), ratios=(0.34, 0.5, 0.01), settings=UNTRAINED)
    found = compare(grid, tmp_path / "out", executor=Local())
    assert figures(found) == figures(compare(grid, tmp_path / "alone"))
    assert len(found["rows"]) == 2 and list(found["failed"]) == [grid[2].name]
    stamps = [
        json.loads((tmp_path / "out/runs" / cell.name / "depthprune/stages.json").read_text())
        for cell in grid[:2]
    ]
    assert [stamp["score"].get("from") for stamp in stamps] == [None, grid[0].name]
    logs = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/jobs").glob("*.log")}
    # What is wrong from the start begins no process.
    assert {path.stem for path in logs} == {cell.name for cell in grid[:2]}
    assert not list((tmp_path / "out").rglob("lock"))
    assert figures(compare(grid, tmp_path / "out", executor=Local())) == figures(found)
    assert logs == {path: path.stat().st_mtime_ns for path in logs}  # nor does what is done


@pytest.mark.slow
def test_a_process_that_dies_is_told_with_its_log(tmp_path, monkeypatch):
    grid = cells(tmp_path, recipes=("reverse",), settings=UNTRAINED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    (tmp_path / "broken/depthprune").mkdir(parents=True)
    (tmp_path / "broken/depthprune/__init__.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    with pytest.raises(UserError, match=rf"signal 9; most likely the memory.*jobs/{grid[0].name}\.log"):
        compare(grid, tmp_path / "out", executor=Local())
    monkeypatch.undo()
    assert compare(grid, tmp_path / "out", executor=Local())["rows"]


def test_who_waits_for_whom(tmp_path):
    trained = {"training.max_steps": 2}
    grid = cells(tmp_path, ("gradpruner", "reverse", "sleb"), (0.34, 0.5), settings=trained, baseline=True)
    dense, *_ = grid
    assert dense.method == "dense"
    runs = tmp_path / "runs"

    def named(found):
        return [(cell.method, cell.ratio) for cell in found]

    first = [("dense", None), ("gradpruner", 0.34), ("reverse", 0.34), ("sleb", 0.34)]
    assert named(first_to_do(grid, [], grid, runs)) == first
    rest = [cell for cell in grid if (cell.method, cell.ratio) not in first]
    running = [cell for cell in grid if cell not in rest]
    assert first_to_do(rest, running, grid, runs) == []
    scored = runs / running[1].name / "depthprune/stages.json"
    scored.parent.mkdir(parents=True)
    scored.write_text(json.dumps({"score": {"digest": "", "seconds": 1.0}}))
    assert named(first_to_do(rest, running, grid, runs)) == [("gradpruner", 0.5)]
    assert named(first_to_do(rest, running[:1], grid, runs)) == named(
        rest
    )  # the others failed: they are free


def test_what_a_run_may_need_grows_with_what_it_does(tmp_path):
    methods = ("none", "lora", "full")
    settings = [{**UNTRAINED, "training.method": method} for method in methods]
    needed = [most_needed([cells(tmp_path, ("reverse",), settings=one)[0].recipe]) for one in settings]
    assert needed == sorted(needed) and len({*needed}) == 3
    assert 0 < free_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
