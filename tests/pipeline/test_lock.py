"""One run at a time in a folder: what a second one meets."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from depthprune.errors import UserError
from depthprune.pipeline import lock
from depthprune.pipeline.lock import InUse, locked

HOLDER = """
import sys, time
from pathlib import Path
from depthprune.pipeline.lock import InUse, locked
with locked(Path(sys.argv[1])):
    print("here", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "run" / "depthprune").mkdir(parents=True)
    return tmp_path / "run" / "depthprune" / "lock"


def holder(path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "here\n"
    return process


def test_a_second_one_is_refused_by_the_owners_name_and_changes_nothing(path):
    process = holder(path)
    before = path.read_bytes()
    with (
        pytest.raises(UserError, match=rf"run is in use by another run \(process {process.pid} of .* on .*"),
        locked(path),
    ):
        pass
    assert path.read_bytes() == before
    process.kill()
    process.wait()


def test_a_killed_owners_lock_is_taken_over_with_a_line_though_its_number_lives_on(path, caplog):
    process = holder(path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "pid": os.getpid()}))
    with locked(path):
        assert f"process {os.getpid()} of" in caplog.text
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_another_machine_counts_as_alive_for_as_long_as_it_gives_signs(path, caplog):
    record = {"user": "a", "host": "far", "pid": 1, "machine": "other", "since": "now"}
    path.write_text(json.dumps(record))
    with (
        pytest.raises(UserError, match=r"process 1 of a on far, since now.*try again in \d+ s"),
        locked(path),
    ):
        pass
    assert json.loads(path.read_text()) == record
    long_ago = time.time() - lock.SILENT - 1
    os.utime(path, (long_ago, long_ago))
    with locked(path):
        assert "process 1 of a on far" in caplog.text


def test_signs_of_life(path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with locked(path):
        os.utime(path, (0, 0))
        for _ in range(1000):
            if path.stat().st_mtime > 0:
                break
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_torn_lock_of_no_one_is_taken(path, content):
    path.write_bytes(content)
    with locked(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_it_goes_whatever_happens(path):
    with pytest.raises(KeyError), locked(path):
        raise KeyError
    assert not path.exists()


@pytest.mark.parametrize(("again", "free"), [("1", True), ("0", False)])
def test_a_job_that_slurm_begins_again_elsewhere_knows_that_it_ended(path, monkeypatch, again, free):
    record = {"user": "a", "host": "far", "pid": 1, "machine": "other", "since": "now", "job": ["c", "7", 0]}
    path.write_text(json.dumps(record))
    for name, value in (("CLUSTER_NAME", "c"), ("JOB_ID", "7"), ("RESTART_COUNT", again)):
        monkeypatch.setenv(f"SLURM_{name}", value)
    if not free:
        with pytest.raises(InUse) as refused, locked(path):
            pass
        assert 0 < refused.value.left <= lock.SILENT
        return
    with locked(path):
        assert json.loads(path.read_text())["job"] == ["c", "7", 1]
