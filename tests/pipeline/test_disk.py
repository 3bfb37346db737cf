"""What the disk, its rights and its limits do to a call: one line, exit 2, and the same call goes on."""

import errno
import os
import shutil
import subprocess

import pytest
import torch
from runs import model_folder, recipe
from safetensors import SafetensorError

from depthprune import UserError, run, verify
from depthprune.errors import DiskFault, disk_fault, disk_faults_explained
from depthprune.model.checkpoint import prune_files
from depthprune.pipeline.folder import RunFolder


@pytest.mark.parametrize(
    "name", ["EACCES", "EROFS", "ENOSPC", "ENAMETOOLONG", "EISDIR", "ENXIO", "EIO", "EDQUOT"]
)
def test_an_error_of_the_disk_is_one_line_with_the_path(name):
    number = getattr(errno, name)
    with pytest.raises(DiskFault) as said, disk_faults_explained():
        raise OSError(number, os.strerror(number), "some/file.json")
    assert str(said.value).startswith(f"some/file.json: {os.strerror(number).lower()}: ")
    assert "\n" not in str(said.value)


def test_writers_that_are_not_pythons_are_understood_and_other_faults_stay_ours():
    assert "no space left" in str(
        disk_fault(SafetensorError("I/O error: No space left on device (os error 28)"))
    )
    with pytest.raises(RuntimeError) as torn:
        torch.save(torch.zeros(1000), "/dev/full")
    assert isinstance(disk_fault(torn.value), DiskFault)
    assert disk_fault(RuntimeError("shape mismatch")) is None
    assert disk_fault(OSError("no errno")) is None


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk, left):
    size = shutil.disk_usage(disk).free - left
    (disk / "ballast").write_bytes(b"x" * size)


@pytest.mark.parametrize("left", [0, 8 << 10, 60 << 10, 150 << 10])
def test_a_full_disk_and_then_space(small_disk, tmp_path, monkeypatch, left):
    chosen = recipe(tmp_path, "reverse", **{"training.method": "none", "selection.ratio": 0.34})
    monkeypatch.setattr(shutil, "disk_usage", shutil.disk_usage)
    fill(small_disk, left)
    monkeypatch.setattr("depthprune.pipeline.run.check_disk", lambda inputs, output: None)
    with pytest.raises(DiskFault, match=r"no space left on device: free some space|cannot be written"):
        run(chosen, small_disk / "out")
    assert not (small_disk / "out" / "config.json").exists()
    (small_disk / "ballast").unlink()
    folder = run(chosen, small_disk / "out")
    verify(folder)
    assert not list(folder.rglob(".*"))


@pytest.mark.parametrize("left", [20 << 10, 300 << 10, 700 << 10])
def test_a_disk_that_fills_up_in_training(small_disk, tmp_path, monkeypatch, left):
    tuned = {"training.method": "full", "training.save_steps": 2, "selection.ratio": 0.5}
    chosen = recipe(tmp_path, "random", eval=(), **tuned)
    run(chosen, small_disk / "out", until="prune")
    fill(small_disk, left)
    monkeypatch.setattr("depthprune.pipeline.run.check_disk", lambda inputs, output: None)
    with pytest.raises(DiskFault, match=r"no space left on device: free some space|cannot be written"):
        run(chosen, small_disk / "out", until="train")
    (small_disk / "ballast").unlink()
    folder = run(chosen, small_disk / "out", until="train")
    verify(folder)
    whole = run(chosen, tmp_path / "whole", until="train")
    weights = "model.safetensors"
    assert (folder / weights).read_bytes() == (whole / weights).read_bytes()
    assert not list(folder.rglob(".*"))


def test_a_full_disk_for_prune(small_disk, tmp_path):
    model = model_folder(tmp_path / "model")
    fill(small_disk, 30 << 10)
    with pytest.raises(DiskFault, match="no space left"):
        prune_files(model, [1], small_disk / "a" / "cut")
    assert not (small_disk / "a").exists()
    (small_disk / "ballast").unlink()
    prune_files(model, [1], small_disk / "a" / "cut")


def test_paths_that_cannot_be(tmp_path):
    chosen = recipe(tmp_path, "reverse", **{"training.method": "none"})
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for output in (tmp_path / "file", tmp_path / "pipe", "/dev/null", tmp_path / "file" / "out",
                   tmp_path / ("x" * 300), "/proc/out"):  # fmt: skip
        with pytest.raises(UserError) as refusal:
            run(chosen, output)
        assert "\n" not in str(refusal.value)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError):
        run(chosen, tmp_path / "new" / ("x" * 300) / "out")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_something_else_lies_where_a_file_should_be(tmp_path, kind):
    chosen = recipe(tmp_path, "reverse", **{"training.method": "none", "selection.ratio": 0.34})
    folder = RunFolder(run(chosen, tmp_path / "out", until="select"))
    for name in ("plan.json", ".plan.json.partial", "scores.json", "recipe.yaml"):
        path = folder.own / name
        path.unlink(missing_ok=True)
        path.mkdir() if kind == "folder" else os.mkfifo(path)
    if kind == "folder":
        with pytest.raises(DiskFault, match=r"folder where a file should be: move it away"):
            run(chosen, folder.root)
        for name in ("plan.json", "scores.json", "recipe.yaml"):
            if (folder.own / name).is_dir():
                (folder.own / name).rmdir()
    run(chosen, folder.root)
    verify(folder.root)
