"""Runs as jobs, sent through submitit: here its own executor of this machine, whose jobs are processes."""

import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from compare.test_budget import UNTRAINED
from compare.test_compare import cells
from compare.test_local import figures

from depthprune import UserError
from depthprune.compare import cluster, compare
from depthprune.compare.cluster import Cluster
from depthprune.compare.job import Job
from depthprune.compare.slurm_options import SIGNAL_SECONDS
from depthprune.compare.tasks import RunTask

submitit = pytest.importorskip("submitit")


class Processes:
    """The queue of submitit's local executor: the processes that live."""

    def __init__(self):
        self.folder, self.cancelled = Path(), []

    def sender(self, folder, name):
        self.folder = folder
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=20)
        return executor

    def listed(self):
        numbers = [path.name.partition("_")[0] for path in self.folder.glob("*_submitted.pkl")]
        return {number: ("RUNNING", "") for number in numbers if _lives(number)}

    def cancel(self, jobs):
        self.cancelled += jobs
        for job in jobs:
            os.kill(int(job), signal.SIGINT)

    def fate(self, job):
        return "is gone"


def _lives(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def task_of(cell, root):
    return RunTask(cell.name, root, cell.recipe, ())


def the_job(root):
    """The one that jobs.json names."""
    (sent,) = json.loads((root / "jobs/jobs.json").read_text())["sent"].values()
    return sent["job"]


def sent_by(one, root, grid):
    """A cluster that has sent the first run of a grid, and its job."""
    root.mkdir(exist_ok=True)
    one.prepare(root, grid)
    one.start([task_of(grid[0], root)])
    return one, the_job(root)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cluster, "ASKS_EVERY", 0.0)
    monkeypatch.setattr(cluster, "LOOKS_EVERY", 0.1)


@pytest.mark.slow
def test_what_another_call_has_sent_is_not_sent_again_and_the_table_is_the_local_one(tmp_path, caplog):
    caplog.set_level("INFO", "depthprune")
    grid, root = cells(tmp_path, recipes=("reverse",), settings=UNTRAINED), tmp_path / "out"
    (root / "runs").mkdir(parents=True)
    queue = Processes()
    first, job = sent_by(Cluster(queue, 20), root, grid)
    first.close()
    assert f"1 jobs go on in the cluster: the same command returns to them, scancel {job} ends" in caplog.text
    found = compare(grid, root, executor=Cluster(queue, 20))
    assert f"{grid[0].name} goes on as job {job}" in caplog.text
    sent = list((root / "jobs").glob("*_submitted.pkl"))
    assert len(sent) == 2 and found["rows"][0]["latency"]["share"] > 0  # the run, and the time of a token
    assert json.loads((root / "jobs/jobs.json").read_text()) == {"sending": "", "sent": {}}
    assert figures(found) == figures(compare(grid, tmp_path / "alone"))
    compare(grid, root, executor=Cluster(queue, 20))
    assert len(list((root / "jobs").glob("*_submitted.pkl"))) == 2


def test_a_job_that_leaves_the_queue_without_a_report_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "LOST_AFTER", 0.5)
    grid, root = cells(tmp_path, recipes=("reverse",), settings=UNTRAINED), tmp_path / "out"
    one, job = sent_by(Cluster(Processes(), 20), root, grid)
    os.kill(int(job), signal.SIGKILL)
    found = {}
    for _ in range(300):
        found |= one.ended()
        if found:
            break
    assert found[grid[0].name].failed.startswith(f"job {job} is gone: its log is {root}/jobs/{job}")


def test_a_job_of_a_run_that_was_changed_is_cancelled(tmp_path):
    grid, root = cells(tmp_path, recipes=("reverse",), settings=UNTRAINED), tmp_path / "out"
    queue = Processes()
    _, job = sent_by(Cluster(queue, 20), root, grid)
    again = Cluster(queue, 20)
    again.prepare(root, grid)
    again.start([RunTask(grid[0].name, root, grid[0].recipe.model_copy(update={"seed": 7}), ())])
    assert queue.cancelled == [job]
    other = the_job(root)
    assert other != job
    for number in (job, other):
        with suppress(ProcessLookupError):  # it may have ended by now
            os.kill(int(number), signal.SIGKILL)


def test_a_job_out_of_time_is_requeued_where_it_made_headway(tmp_path):
    (cell,) = cells(tmp_path, recipes=("reverse",), settings=UNTRAINED)
    job = Job(task_of(cell, tmp_path), 5)
    job._before = job._state()
    own = tmp_path / "runs" / cell.name / "depthprune"
    (own / "scoring").mkdir(parents=True)
    for name in ("recipe.yaml", "scoring/checkpoint", ".stages.json.partial"):
        (own / name).write_text("x")
    job._since = time.monotonic() - 300 + SIGNAL_SECONDS
    with pytest.raises(UserError, match="5 minutes are not enough"):
        job.checkpoint()
    (own / "stages.json").write_text("{}")
    assert job.checkpoint().function.task == job.task
    job._since, job._before = time.monotonic(), job._state()
    assert job.checkpoint().function.task == job.task  # preempted: that says nothing of its time
