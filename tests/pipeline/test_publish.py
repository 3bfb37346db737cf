"""The model at the top of a run folder is that of its newest stage, and what is not says so."""

import errno
import json
import os
import shutil

import pytest
from runs import model_folder, recipe
from safetensors.torch import load_file, save_file

from depthprune import UserError, run, verify
from depthprune.model.published import publishing_fault, read_record
from depthprune.pipeline.publish import publish


@pytest.fixture
def root(tmp_path):
    """A folder whose stages prune and train are done, prune is published."""
    inside = tmp_path / "run" / "depthprune"
    model_folder(inside / "pruned")
    shutil.copytree(inside / "pruned", inside / "tuned")
    tensors = load_file(inside / "tuned" / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, inside / "tuned" / "model.safetensors")
    (inside / "tuned" / "licences" / "a").mkdir(parents=True)
    (inside / "tuned" / "licences" / "a" / "LICENSE").write_text("free")
    stamp(inside.parent, prune="p")
    publish(inside.parent, "prune", "p")
    return inside.parent


def stamp(root, **digests):
    stamps = {stage: {"digest": digest, "seconds": 1.0} for stage, digest in digests.items()}
    (root / "depthprune" / "stages.json").write_text(json.dumps(stamps))


def files(folder):
    found = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {path: content for path, content in found.items() if path.parts[0] != "depthprune"}


def test_the_root_is_the_stages_files_by_links_and_copies(root):
    assert files(root) == files(root / "depthprune" / "pruned")
    weights, config = root / "model.safetensors", root / "config.json"
    assert weights.samefile(root / "depthprune" / "pruned" / "model.safetensors")
    assert not config.samefile(root / "depthprune" / "pruned" / "config.json")  # people edit it in place
    assert publishing_fault(root) is None
    stamp(root, prune="p", train="t")
    assert "another model than that of its stage train" in publishing_fault(root)
    with pytest.raises(UserError, match="another model than that of its stage train"):
        verify(root)
    publish(root, "train", "t")
    assert files(root) == files(root / "depthprune" / "tuned")
    assert publishing_fault(root) is None
    publish(root, "prune", "p")
    assert files(root) == files(root / "depthprune" / "pruned")
    assert not (root / "licences").exists()


def test_without_hard_links(root, monkeypatch):
    def no_links(source, target, **options):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    publish(root, "train", "t")
    assert files(root) == files(root / "depthprune" / "tuned")
    before = {path: path.stat().st_ino for path in root.iterdir()}
    publish(root, "train", "t")
    assert {path: path.stat().st_ino for path in root.iterdir()} == before


def test_what_is_not_the_stages_any_more_is_said_and_put_back(root, caplog):
    weights = root / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[:-1] + b"x")
    assert "model.safetensors is not that of its stage prune" in publishing_fault(root)
    publish(root, "prune", "p")
    assert files(root) == files(root / "depthprune" / "pruned")
    assert "put back" in caplog.text
    (root / "config.json").unlink()
    assert "config.json of its stage prune is missing" in publishing_fault(root)


@pytest.mark.parametrize(
    "name",
    [
        "../mine.txt",
        "sub/../../mine.txt",
        "depthprune/pruned/config.json",
        "linked/mine.txt",
        "/mine.txt",
        "",
    ],
)
def test_a_record_cannot_reach_out_of_the_folder(root, name):
    outside = root.parent / "mine.txt"
    outside.write_text("mine")
    (root / "linked").symlink_to(root.parent)
    name = str(outside) if name == "/mine.txt" else name
    record = json.loads((root / "depthprune" / "published.json").read_text())
    record["files"][name] = 4
    (root / "depthprune" / "published.json").write_text(json.dumps(record))
    assert name not in read_record(root)["files"]
    publish(root, "train", "t")
    assert outside.read_text() == "mine"
    assert (root / "depthprune" / "pruned" / "config.json").is_file()


@pytest.mark.parametrize("content", ["", "{", "[]", '["../mine.txt"]', '{"files": 3}', '{"stage": "x"}'])
def test_a_record_that_says_nothing_is_no_record(root, content):
    (root.parent / "mine.txt").write_text("mine")
    (root / "depthprune" / "published.json").write_text(content)
    publish(root, "train", "t")
    assert files(root) == files(root / "depthprune" / "tuned")
    assert (root.parent / "mine.txt").exists()


def test_torn_artifacts_are_named_and_redone_and_without_stamps_kept(tmp_path, caplog):
    chosen = recipe(tmp_path, "reverse", **{"training.method": "none", "selection.ratio": 0.34})
    folder = run(chosen, tmp_path / "out")
    inside = folder / "depthprune"
    plan = (inside / "plan.json").read_text()
    evaluation = json.loads((inside / "eval.json").read_text())["rows"]["pruned"]["results"]
    for name in ("plan.json", "recovery.json", "eval.json", "environment.json", "published.json"):
        (inside / name).write_text('{"torn')
    (inside / "pruned" / "model.safetensors").write_bytes(b"torn")
    run(chosen, folder)
    for name in ("plan.json", "eval.json", "pruned"):
        assert f"{inside / name} is missing or torn" in caplog.text
    verify(folder)
    assert (inside / "plan.json").read_text() == plan
    assert json.loads((inside / "eval.json").read_text())["rows"]["pruned"]["results"] == evaluation

    finished = (inside / "pruned" / "model.safetensors").read_bytes()
    (inside / "stages.json").write_text("{")
    run(chosen, folder)
    assert f"{inside / 'stages.json'} is torn" in caplog.text
    (kept,) = (inside / "superseded").iterdir()
    assert (kept / "pruned" / "model.safetensors").read_bytes() == finished
    verify(folder)
