"""What a run read is written so that it can be found, and run, again."""

import json
import logging

import pytest
import torch
import yaml
from runs import recipe
from safetensors.torch import load_file

from depthprune.pipeline.run import run
from depthprune.recipe.load import load_recipe


@pytest.fixture
def relative(tmp_path, monkeypatch):
    """A small run whose recipe names model and data by relative paths."""
    recipe(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "test.jsonl").rename(tmp_path / "data" / "test.jsonl")
    monkeypatch.chdir(tmp_path)
    names = {"model": "model", "train": "train.jsonl", "eval": ("data:test",), "training.method": "none"}
    return load_recipe("reverse", **names)


def test_the_written_recipe_runs_anywhere(relative, tmp_path, monkeypatch):
    run(relative, "out")
    written = yaml.safe_load((tmp_path / "out/depthprune/recipe.yaml").read_text())
    assert written["model"] == str(tmp_path / "model") and written["train"] == str(tmp_path / "train.jsonl")
    assert written["eval"] == [f"{tmp_path / 'data'}:test"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    again = load_recipe(tmp_path / "out/depthprune/recipe.yaml")
    run(again, "again")
    folders = (tmp_path / "out", elsewhere / "again")
    one, other = (load_file(folder / "model.safetensors") for folder in folders)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    stamps = [json.loads((folder / "depthprune/stages.json").read_text()) for folder in folders]
    digests = [{stage: stamp["digest"] for stage, stamp in found.items()} for found in stamps]
    assert digests[0] == digests[1]


def test_the_sources_are_known_by_their_content(relative, tmp_path):
    def sources():
        return json.loads((tmp_path / "out/depthprune/environment.json").read_text())["sources"]

    run(relative, "out", "select")
    first = sources()
    assert (
        len({first["model"]["fingerprint"], first["train"]["fingerprint"], first["eval"][0]["fingerprint"]})
        == 3
    )
    assert str(tmp_path) not in json.dumps(first)
    with (tmp_path / "data" / "test.jsonl").open("a") as file:
        file.write((tmp_path / "data" / "test.jsonl").read_text())
    run(relative, "out", "evaluate")
    assert sources()["eval"] != first["eval"] and sources()["model"] == first["model"]


def test_hub_ids_and_what_is_not_there_stay_as_they_are():
    names = {"model": "org/name", "train": "org/data:train", "eval": ("a:b", "nowhere.jsonl")}
    found = load_recipe("gradpruner", **names)
    assert found.located() == found


def test_a_name_that_is_no_utf8_text_survives_a_run(relative, tmp_path, caplog):
    caplog.set_level(logging.ERROR, "depthprune")  # pytest's workers cannot hand such a name to each other
    name = "caf\udce9.jsonl"
    (tmp_path / "data" / "test.jsonl").rename(tmp_path / name)
    run(relative.model_copy(update={"eval": (name,)}), "out")
    assert load_recipe(tmp_path / "out/depthprune/recipe.yaml").eval == (str(tmp_path / name),)
    rows = json.loads((tmp_path / "out/depthprune/eval.json").read_text())["rows"]
    assert rows["base"]["results"][0]["dataset"] == "caf\udce9"
