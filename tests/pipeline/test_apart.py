"""A run whose output holds what it reads is refused before anything is touched."""

import os
import shutil

import pytest
from runs import model_folder, recipe, rows, write_jsonl

from depthprune import UserError, run


def tree(folder):
    return {path: path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@pytest.fixture
def finished(tmp_path):
    """A run folder as it looks, with a model at its top and one inside."""
    folder = model_folder(tmp_path / "r1")
    shutil.copytree(folder, folder / "depthprune" / "pruned")
    (folder / "depthprune" / "stages.json").write_text("{}")
    write_jsonl(folder / "depthprune" / "self-data.jsonl", rows(40))
    return folder


def refused(tmp_path, output, **changes):
    before = tree(tmp_path)
    with pytest.raises(UserError, match="lies in the output") as refusal:
        run(recipe(tmp_path, "reverse", **changes), output)
    after = {path: time for path, time in tree(tmp_path).items() if path in before}
    assert after == before
    return str(refusal.value)


def test_the_model_is_the_output_or_lies_in_it(tmp_path, finished, monkeypatch):
    recipe(tmp_path)
    assert "name another folder" in refused(tmp_path, finished, model=str(finished))
    refused(tmp_path, finished, model=str(finished / "depthprune" / "pruned"))
    refused(tmp_path, tmp_path / "x" / ".." / "r1", model=str(finished))
    (tmp_path / "link").symlink_to(finished)
    refused(tmp_path, tmp_path / "link", model=str(finished))
    refused(tmp_path, finished, model=str(tmp_path / "link" / "depthprune" / "pruned"))
    monkeypatch.chdir(tmp_path)
    refused(tmp_path, "r1", model="./r1")


def test_the_models_files_are_links_into_the_output(tmp_path, finished):
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in finished.iterdir():
        if path.is_file():
            (linked / path.name).symlink_to(path)
    refused(tmp_path, finished, model=str(linked))


def test_data_in_the_output_and_the_output_in_the_data(tmp_path, finished):
    data = str(finished / "depthprune" / "self-data.jsonl")
    refused(tmp_path, finished, train=data)
    refused(tmp_path, finished, eval=(data,))
    folder = tmp_path / "data"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", rows(40))
    with pytest.raises(UserError, match="lies in the data"):
        run(recipe(tmp_path, "reverse", train=str(folder)), folder / "out")
    assert not (folder / "out").exists()


def test_an_output_in_the_model_folder_resumes(tmp_path, caplog):
    chosen = recipe(tmp_path, "reverse", **{"training.method": "none"})
    output = tmp_path / "model" / "runs" / "out"
    run(chosen, output)
    with caplog.at_level("INFO", "depthprune"):
        run(chosen, output)
    assert caplog.text.count("already done") == 4


def test_a_model_of_hard_links_to_the_outputs_own_outlives_it(tmp_path):
    chosen = {"training.method": "none", "selection.ratio": 0.34}
    first = run(recipe(tmp_path, "reverse", **chosen), tmp_path / "out")
    linked = tmp_path / "linked"
    shutil.copytree(first / "depthprune" / "pruned", linked, copy_function=os.link)
    before = {path.name: path.read_bytes() for path in linked.iterdir()}
    run(recipe(tmp_path, "reverse", **chosen, model=str(linked)), first, overwrite=True)
    assert {path.name: path.read_bytes() for path in linked.iterdir()} == before
