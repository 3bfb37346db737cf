"""What is told of the time before anything has run: no test asserts one, but how it is scaled."""

import math

import pytest
from compare.test_compare import cells
from runs import recipe

from depthprune.compare.first_batches import _job, _timed, seconds_at_least
from depthprune.compare.grid import Cell
from depthprune.pipeline.estimate import estimate


@pytest.mark.parametrize(("limit", "share"), [(None, 16 / 8), (12, 12 / 8), (4, 4 / 8), (1000, 16 / 8)])
def test_rows_stand_for_as_many_as_will_be_measured(tmp_path, limit, share):
    job = _job(Cell("reverse", 0.34, 1, recipe(tmp_path, "reverse", **{"evaluation.limit": limit})))
    (examples,) = job.inputs.evals
    assert _timed(job, job.load(str(job.recipe.model)), examples, 8)[1] == share


def test_windows_of_a_text_stand_for_its_65_536_tokens(tmp_path):
    (tmp_path / "text.txt").write_text("a b c d e f g h\n" * 20_000)
    settings = {"eval": (str(tmp_path / "text.txt"),), "evaluation.max_length": 64}
    job = _job(Cell("reverse", 0.34, 1, recipe(tmp_path, "reverse", **settings)))
    (examples,) = job.inputs.evals
    took, share = _timed(job, job.load(str(job.recipe.model)), examples, 4)
    assert took > 0 and math.isclose(share * 4, 65_536 / 63, rel_tol=0.02)


def test_untuned_runs_cost_passes_alone_and_what_cannot_be_tried_tells_no_time(tmp_path, caplog):
    grid = cells(tmp_path, recipes=("reverse",), settings={"training.method": "none"})
    found = [estimate(cell.recipe, tmp_path / "out") for cell in grid]
    assert seconds_at_least(grid, found) > 0
    assert seconds_at_least(grid, [{**one, "remaining": {}} for one in found]) is None
    assert "the time cannot be told" in caplog.text
