"""Comparisons on a SLURM of one node: preempted, requeued, killed, cancelled; the table is the local one.

`python tests/slurm/sweep.py [--keep]` sets the cluster up, ends it whatever happens, and prints what it did;
where SLURM is not there and cannot be installed it says so.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parents[1]))

from compare.test_local import figures
from runs import recipe
from slurm.one_node import install, one_node

from depthprune.compare.slurm import slurm_cluster
from depthprune.errors import UserError

PATIENCE = 900.0
CORES, MEMORY = 2, 4000
STEPS = 300
SETTINGS = {
    "training.max_steps": STEPS,
    "training.save_steps": 10,
    "training.per_device_train_batch_size": 4,
    "training.gradient_accumulation_steps": 1,
    "calibration_samples.samples": 8,
    "calibration_samples.length": 16,
}
SLURM = ["--executor", "slurm", "--slurm", "time=20", "--slurm", "mem=1500M", "--slurm", "cpus-per-task=1"]


class Sweep:
    """One comparison of three runs, by the command line, in the cluster's environment."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.started: list[subprocess.Popen[str]] = []
        sources = recipe(folder)
        self.call = [sys.executable, "-m", "depthprune", "compare", "--recipes", "reverse,random"]
        self.call += [
            "--ratios",
            "0.34",
            "--baseline",
            "--model",
            str(sources.model),
            "--eval",
            sources.eval[0],
        ]
        self.call += ["--train", str(sources.train), *(f"{key}={value}" for key, value in SETTINGS.items())]

    def start(self, output: str, *more: str) -> "subprocess.Popen[str]":
        call = [*self.call, "--output", str(self.folder / output), *more]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.started.append(subprocess.Popen(call, env=self.environment, **pipes))
        return self.started[-1]

    def end(self, process: "subprocess.Popen[str]") -> tuple[int, str]:
        out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out + err

    def slurm(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True
        ).stdout.strip()

    def found(self, output: str) -> dict[str, Any]:
        return json.loads((self.folder / output / "comparison.json").read_text())

    def jobs(self, output: str) -> dict[str, str]:
        """run → its job, of those that were sent and have not ended."""
        path = self.folder / output / "jobs/jobs.json"
        with contextlib.suppress(OSError, ValueError):
            return {name: one["job"] for name, one in json.loads(path.read_text())["sent"].items()}
        return {}

    def training(self, output: str) -> list[str]:
        """The jobs that train, and have left a checkpoint to go on from."""
        again = self.restarts()
        found = []
        for name, job in self.jobs(output).items():
            own = self.folder / output / "runs" / name / "depthprune"
            with contextlib.suppress(OSError, ValueError):
                lock = json.loads((own / "lock").read_text())
                if list(own.glob("trainer/*/checkpoint-*")) and lock["job"][2] == again.get(job):
                    found.append(job)
        return found

    def restarts(self) -> dict[str, int]:
        """job → how often it was begun again."""
        shown = self.slurm("scontrol", "--oneliner", "show", "job")
        found = {}
        for line in shown.splitlines():
            number, array = (
                re.search(r"JobId=(\d+)", line),
                re.search(r"ArrayJobId=(\d+) ArrayTaskId=(\d+)", line),
            )
            again = re.search(r"Restarts=(\d+)", line)
            if number and again:
                found[f"{array[1]}_{array[2]}" if array else number[1]] = int(again[1])
        return found


def wait(what: str, until: Callable[[], Any], process: "subprocess.Popen[str] | None" = None) -> Any:
    """What `until` gives once it gives anything."""
    ends = time.monotonic() + PATIENCE
    while not (found := until()):
        if time.monotonic() > ends or (process is not None and process.poll() is not None):
            said = process.communicate()[1] if process is not None and process.poll() is not None else ""
            raise RuntimeError(f"waited in vain for {what}\n{said}")
        time.sleep(1.0)
    return found


def check(sentence: str, holds: bool, said: str = "") -> None:
    if not holds:
        raise AssertionError(f"not so: {sentence}\n{said}")
    print(f"  {sentence}")


def refusals(sweep: Sweep) -> None:
    """By sbatch itself, before anything is written."""
    for option, said in (
        ("partition=nowhere", "invalid partition specified: nowhere"),
        ("mem=900G", "Requested node configuration is not available"),
        ("foo=1", "unrecognized option '--foo=1'"),
    ):
        try:
            slurm_cluster(["time=20", option])
        except UserError as problem:
            check(f"{option} is refused: {said}", said in str(problem), str(problem))
        else:
            check(f"{option} is refused", False)
    code, text = sweep.end(
        sweep.start("refused", "--executor", "slurm", "--slurm", "time=20", "--slurm", "gpus=1")
    )
    there = (sweep.folder / "refused").exists()
    check("with code 2, and nothing is left", code == 2 and "sbatch refuses" in text and not there, text)


def hard_times(sweep: Sweep) -> dict[str, int]:
    """Preemption, a kill of `compare`, the signal that a job's time is over, scancel and Ctrl-C, in turn."""
    began = time.monotonic()
    process = sweep.start("cluster", *SLURM)
    wait("a training job", lambda: sweep.training("cluster"), process)
    sweep.slurm("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    preempted = wait("a preempted job", lambda: [job for job, n in sweep.restarts().items() if n], process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    check("an urgent job preempts, and compare is killed", True)
    since = time.time()
    again = sweep.start("cluster", *SLURM)
    sent = sweep.folder / "cluster" / "jobs/jobs.json"
    wait("the jobs to be taken over", lambda: sent.stat().st_mtime > since, again)
    (told, *_) = wait("a training job", lambda: sweep.training("cluster"))
    before = sweep.restarts()[told]
    sweep.slurm("scancel", "--signal=USR2", told)
    wait("the told job's requeue", lambda: sweep.restarts()[told] > before)
    check("a job that is told the end of its time is requeued", True)
    (gone, *_) = [job for job in sweep.jobs("cluster").values() if job != told]
    sweep.slurm("scancel", gone)
    code, text = sweep.end(again)
    check("the killed comparison ends", code == 0 and "goes on as job" in text, text)
    check("a cancelled job is told, and stops no other", f"job {gone} ended as CANCELLED" in flat(text), text)
    process = sweep.start("cluster", *SLURM)
    wait("its job", lambda: sweep.jobs("cluster"), process)
    process.send_signal(signal.SIGINT)
    code, text = sweep.end(process)
    check("Ctrl-C says what goes on", code == 130 and "1 jobs go on in the cluster" in flat(text), text)
    code, text = sweep.end(sweep.start("cluster", *SLURM))
    check("and the same command returns to it", code == 0 and "goes on as job" in text, text)
    logs = "".join(path.read_text() for path in (sweep.folder / "cluster/jobs").glob("*_log.out"))
    check("a job that begins again goes on from finished stages", "already done" in logs, logs)
    ours = len(list((sweep.folder / "cluster/jobs").glob("*_submitted.pkl")))
    check("none was sent twice", ours == len(sweep.found("cluster")["rows"]) + 2)  # the cancelled; latency
    again_in_all = sum(sweep.restarts().values())
    seconds = round(time.monotonic() - began)
    return {"jobs": ours, "preempted": len(preempted), "restarts": again_in_all, "seconds": seconds}


def flat(text: str) -> str:
    return " ".join(text.split())


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="depthprune-slurm-"))
    try:
        yield path
    finally:
        if "--keep" in sys.argv:
            print(f"kept: {path}")
        else:
            shutil.rmtree(path, ignore_errors=True)


def end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)  # through all that has to be taken down


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    if (reason := install()) is not None:
        print(f"skipped: {reason}")
        return
    with folder() as path:
        (path / "slurm").mkdir()
        with one_node(path / "slurm", CORES, MEMORY) as environment:
            python = os.pathsep.join(
                [str(Path(__file__).resolve().parents[2] / "src"), os.environ.get("PYTHONPATH", "")]
            )
            os.environ |= environment  # for what is called in this process
            sweep = Sweep(path, {**environment, "PYTHONPATH": python, "OMP_NUM_THREADS": "1"})
            refusals(sweep)
            try:
                figure = hard_times(sweep)
                code, text = sweep.end(sweep.start("alone"))
            finally:
                for process in sweep.started:
                    process.kill()
            check("one after the other, in one process, it ends", code == 0, text)
            alone = figures(sweep.found("alone"))
            check("and its table is that of the cluster", figures(sweep.found("cluster")) == alone)
    print(
        f"{len(alone[0])} runs of {STEPS} steps in {figure['jobs']} jobs: {figure['preempted']} preempted, "
        f"{figure['restarts']} times begun again, compare killed once, in {figure['seconds']} s"
    )


if __name__ == "__main__":
    main()
