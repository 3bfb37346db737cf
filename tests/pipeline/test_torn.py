"""A JSON file of a run folder that is not whole is told by name, and written again."""

import json
import logging
import shutil

import pytest
from runs import recipe

from depthprune import verify
from depthprune.pipeline.run import run

KINDS = {"half": None, "another kind": "1", "nested": "[" * 100_000}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(the recipe, its run folder) of a tuned model."""
    folder = tmp_path_factory.mktemp("torn")
    settings = {"training.method": "partial", "training.last_layers": 1, "training.max_steps": 1}
    made = recipe(folder, "random", **settings, **{"evaluation.limit": 2})
    return made, run(made, folder / "out")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["training.json", "environment.json", "published.json", "recovery.json"])
def test_a_torn_file_is_named_and_written_again(done, tmp_path, caplog, name, kind):
    made, finished = done
    torn = shutil.copytree(finished, tmp_path / "torn")
    path = torn / "depthprune" / name
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2] if KINDS[kind] is None else KINDS[kind])
    with caplog.at_level(logging.WARNING, "depthprune"):
        run(made, torn)
    assert f"{path} is" in caplog.text and "torn" in caplog.text
    if name in ("training.json", "published.json"):
        assert json.loads(path.read_text()) == json.loads(whole)
    else:
        assert json.loads(path.read_text()).keys() == json.loads(whole).keys()
    verify(torn)
    same = "model.safetensors"  # the tuned one, though what it was tuned from was made again
    assert (torn / same).read_bytes() == (finished / same).read_bytes()


@pytest.mark.parametrize("content", ["1", '{"train": 1}', "[" * 100_000])
def test_verify_of_a_folder_whose_stamps_are_torn_says_what_it_can(done, tmp_path, content):
    torn = shutil.copytree(done[1], tmp_path / "torn")
    (torn / "depthprune" / "stages.json").write_text(content)
    verify(torn)
