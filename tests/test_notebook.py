"""Runs the notebook's cells from top to bottom, as Jupyter does, in a folder of its own."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebook" / "depthprune.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), NOTEBOOK.name, "exec"), names)
    said = capsys.readouterr().out
    assert f"{len(names['plan'].kept)} are left" in said
    assert {row["method"] for row in names["found"]["rows"]} == {"dense", "shortgpt", "reverse"}
    assert names["found"]["sentences"]
