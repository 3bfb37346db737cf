"""A comparison from its grid to its report."""

import json
import sys
from pathlib import Path

import pytest
from compare.killed import start_and_kill
from runs import LAYERS, recipe

from depthprune.cli.other_verbs import report
from depthprune.compare import cells_of, compare, read_grid
from depthprune.errors import UserError

SETTINGS = {
    "training.max_steps": 2,
    "training.per_device_train_batch_size": 4,
    "training.gradient_accumulation_steps": 1,
    "calibration_samples.samples": 8,
    "calibration_samples.length": 16,
}


def cells(tmp_path, recipes=("reverse", "random"), ratios=(0.34,), **given):
    sources = recipe(tmp_path)
    grid = read_grid(None, recipes=recipes, ratios=ratios, **{"settings": SETTINGS, **given})
    return cells_of(grid, model=sources.model, train=sources.train, eval=sources.eval)


def test_every_run_is_a_model_and_the_table_holds_all(tmp_path):
    grid = cells(tmp_path, seeds=2, baseline=True)
    found = compare(grid, tmp_path / "out")
    assert found == json.loads((tmp_path / "out/comparison.json").read_text())
    assert [(row["method"], row["ratio"], row["seeds"]) for row in found["rows"]] == [
        ("dense", None, [1, 2]),
        ("reverse", 0.34, [1, 2]),
        ("random", 0.34, [1, 2]),
    ]
    assert not found["failed"] and not found["missing"] and found["sentences"]
    assert {row["kept_of"] for row in found["rows"]} == {"dense"}
    for row in found["rows"]:
        for name, value in zip(row["runs"], row["values"][0]["each"], strict=True):
            folder = tmp_path / "out/runs" / name
            rows = json.loads((folder / "depthprune/eval.json").read_text())["rows"]
            assert (folder / "config.json").is_file()
            assert value == list(rows.values())[-1]["results"][0]["value"]
    shares = [row["latency"]["share"] for row in found["rows"]]
    measured = json.loads((tmp_path / "out/latency.json").read_text())["layers"]
    assert shares == [1.0] + 2 * [measured[str(LAYERS - 2)]["share"]] and len(measured) == 1
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/runs").rglob("eval.json")}
    assert compare(grid, tmp_path / "out") == found  # nor is the time of a token measured again
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_a_run_that_fails_is_told_and_stops_no_other(tmp_path):
    grid = cells(tmp_path, recipes=("reverse",), ratios=(0.01, 0.34))
    found = compare(grid, tmp_path / "out")
    assert [row["ratio"] for row in found["rows"]] == [0.34] and not found["missing"]
    (why,) = found["failed"].values()
    assert "0.01" in why and why[:40] in (tmp_path / "out/report.html").read_text()
    assert compare(cells(tmp_path, recipes=("reverse",)), tmp_path / "out")["failed"] == {}


def test_what_cannot_run_at_all_leaves_nothing_and_another_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("x")
    with pytest.raises(UserError, match="not a comparison"):
        compare(cells(tmp_path), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match=r"0\.01"):
        compare(cells(tmp_path, ratios=(0.01,)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_anywhere_it_ends_with_the_same_table(tmp_path):
    grid = cells(tmp_path)
    whole = compare(grid, tmp_path / "whole")
    for moment in ("runs/*/depthprune/plan.json", "comparison.json"):
        start_and_kill(
            grid, tmp_path / "out", lambda moment=moment: bool(list((tmp_path / "out").glob(moment)))
        )
    again = compare(grid, tmp_path / "out")

    def figures(found):
        return [(row["method"], row["removed"], row["values"], row["cut"]) for row in found["rows"]]

    assert figures(again) == figures(whole) and again["sentences"] == whole["sentences"]
    assert not list(Path(tmp_path / "out").rglob("gradients"))


def test_the_verb_shows_the_table_and_the_grid(tmp_path, capsys, monkeypatch):
    from depthprune.cli import verbs

    sources = recipe(tmp_path)
    call = ["depthprune", "compare", "--recipes", "reverse,random", "--ratios", "0.34", "--output"]
    call += [str(tmp_path / "out"), "--model", str(sources.model), "--train", str(sources.train)]
    call += ["--eval", sources.eval[0], *(f"{key}={value}" for key, value in SETTINGS.items())]

    def said(*more):
        monkeypatch.setattr(sys, "argv", [*call, *more])
        with pytest.raises(SystemExit) as ended:
            verbs.main()
        return ended.value.code or 0, capsys.readouterr()

    code, printed = said()
    shown = "".join(printed.out.split())  # a narrow terminal breaks long lines anywhere
    assert code == 0 and "untuned" in shown and "out/report.html" in shown
    code, printed = said("--dry-run", "--json")
    planned = json.loads(printed.out)
    assert code == 0 and [one["done"] for one in planned["runs"]] == [True, True]
    assert (planned["seconds"], planned["seconds_by"]) == (0, "runs")
    code, printed = said("--ratios", "a quarter")
    assert code == 2 and printed.err.strip().count("\n") == 0


def test_its_report_is_written_again(tmp_path):
    grid = cells(tmp_path, recipes=("reverse",))
    compare(grid, tmp_path / "out")
    written = (tmp_path / "out/report.html").read_text()
    (tmp_path / "out/report.html").unlink()
    report(tmp_path / "out")
    assert (tmp_path / "out/report.html").read_text() == written
    run = tmp_path / "out/runs" / grid[0].name
    (run / "depthprune/report.html").unlink()
    report(run)
    assert (run / "depthprune/report.html").is_file()
    (tmp_path / "out/comparison.json").write_text("{")
    with pytest.raises(UserError, match="torn"):
        report(tmp_path / "out")
    with pytest.raises(UserError, match="neither"):
        report(tmp_path / "none")
