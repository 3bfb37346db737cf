"""Runs as jobs of a cluster, sent through submitit; what was sent is known to the next call."""

import hashlib
import logging
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from depthprune.compare.grid import Cell
from depthprune.compare.job import Job
from depthprune.compare.tasks import JOBS, Outcome, Task, forget, reported
from depthprune.errors import UserError
from depthprune.files import read_object, write_json

log = logging.getLogger("depthprune")

SENT = "jobs.json"
MOST = 500
"""Elements of one array; clusters take 1000 unless they say otherwise."""
LOOKS_EVERY, ASKS_EVERY = 1.0, 15.0
"""Seconds between looks for reports, and between questions to the queue."""
LOST_AFTER = 30.0
"""Seconds without a report after a job has left the queue: a shared disk shows new files late."""
SAYS_EVERY = 300.0


class Queue(Protocol):
    """A cluster, as its commands show it."""

    def sender(self, folder: Path, name: str) -> Any:
        """A submitit executor whose jobs have this name and write into the folder."""

    def listed(self) -> Mapping[str, tuple[str, str]] | None:
        """Job → its state and name, of those of this user that wait or run; None where there is no answer."""

    def cancel(self, jobs: Sequence[str]) -> None: ...

    def fate(self, job: str) -> str:
        """How a job ended that left no report."""


@dataclass(frozen=True)
class Sent:
    """A job of the queue. `of` is a hash of what it does, so that a changed run is not taken for it."""

    job: str
    of: str
    log: str


class Cluster:
    """Sends all that can begin to the queue at once. Jobs go on when this process ends, and are found again.

    What was sent is in jobs.json; before that, the name that it is to be sent by.
    """

    elsewhere = True
    apart = True

    def __init__(self, queue: Queue, minutes: int) -> None:
        self.queue, self.minutes = queue, minutes
        self._root = Path()
        self._sent: dict[str, Sent] = {}
        self._before: dict[str, Sent] = {}
        self._missing: dict[str, float] = {}
        self._asked = self._said = -ASKS_EVERY

    def prepare(self, root: Path, cells: Sequence[Cell]) -> None:
        if self._root == root:
            return
        self._root = root
        (root / JOBS).mkdir(exist_ok=True)
        found = read_object(root / JOBS / SENT) or {}
        if not found:
            return
        if (listed := self.queue.listed()) is None:
            raise UserError(
                "squeue does not answer, and jobs of this comparison may be in the queue: try later"
            )
        known = {name: Sent(**one) for name, one in found.get("sent", {}).items()}
        self._before = {name: one for name, one in known.items() if one.job in listed}
        # Of these it is not known which is which: their sender was killed while it sent them.
        numbers = {one.job for one in known.values()}
        names = {job: name for job, (_, name) in listed.items()}
        self._cancel(
            [job for job, name in names.items() if name == found.get("sending") and job not in numbers]
        )

    def _cancel(self, jobs: Sequence[str]) -> None:
        if jobs:
            log.info("slurm: jobs %s are of another call, and cancelled", ", ".join(jobs))
            self.queue.cancel(jobs)

    def room(self) -> int:
        return 10**6

    def running(self) -> Collection[str]:
        return self._sent

    def start(self, tasks: Sequence[Task]) -> None:
        fresh = []
        for task in tasks:
            before = self._before.pop(task.name, None)
            if before is not None and before.of == _hash(task):
                log.info("slurm: %s goes on as job %s", task.name, before.job)
                self._sent[task.name] = before
                continue
            if before is not None:
                self._cancel([before.job])
            fresh.append(task)
        for first in range(0, len(fresh), MOST):
            self._send(fresh[first : first + MOST])
        self._write("")

    def _send(self, tasks: Sequence[Task]) -> None:
        name = f"depthprune-{uuid.uuid4().hex[:8]}"
        for task in tasks:
            forget(task.root, task.name)
        self._write(name)
        sender = self.queue.sender(self._root / JOBS, name)
        try:
            with sender.batch():
                jobs = [sender.submit(Job(task, self.minutes)) for task in tasks]
        except RuntimeError as problem:  # submitit's, with what sbatch says
            raise UserError(f"jobs are not accepted: {_last_line(problem)}") from problem
        for task, job in zip(tasks, jobs, strict=True):
            self._sent[task.name] = Sent(job.job_id, _hash(task), str(job.paths.stdout))
        self._write("")
        numbers = _listed([one.job_id for one in jobs])
        log.info("slurm: job %s, with its log in %s", numbers, self._root / JOBS)

    def _write(self, sending: str) -> None:
        sent = {name: vars(one) for name, one in {**self._before, **self._sent}.items()}
        write_json(self._root / JOBS / SENT, {"sending": sending, "sent": sent})

    def ended(self) -> dict[str, Outcome]:
        time.sleep(LOOKS_EVERY)
        found = self._reported()
        if time.monotonic() - self._asked > ASKS_EVERY:
            self._asked = time.monotonic()
            found |= self._lost(found)
        for name in found:
            del self._sent[name]
        if found:
            self._write("")
        return found

    def _reported(self) -> dict[str, Outcome]:
        outcomes = {name: reported(self._root, name) for name in self._sent}
        return {name: outcome for name, outcome in outcomes.items() if outcome is not None}

    def _lost(self, ended: Collection[str]) -> dict[str, Outcome]:
        """Those that have left the queue without a report."""
        if (listed := self.queue.listed()) is None:
            log.warning("slurm: the queue does not answer; jobs go on, and it is asked again")
            return {}
        now, found = time.monotonic(), {}
        for name, one in self._sent.items():
            if name in ended or one.job in listed:
                self._missing.pop(name, None)
            elif now - self._missing.setdefault(name, now) > LOST_AFTER:
                said = self.queue.fate(one.job)
                found[name] = Outcome(f"job {one.job} {said}: its log is {one.log}")
        self._say(listed)
        return found

    def _say(self, listed: Mapping[str, tuple[str, str]]) -> None:
        if time.monotonic() - self._said > SAYS_EVERY:
            self._said = time.monotonic()
            states = [listed[one.job][0] for one in self._sent.values() if one.job in listed]
            running = states.count("RUNNING")
            log.info("slurm: %d jobs run, %d wait", running, len(states) - running)

    def close(self) -> None:
        if self._sent:
            log.info(
                "slurm: %d jobs go on in the cluster: the same command returns to them, scancel %s ends them",
                len(self._sent),
                _listed([one.job for one in self._sent.values()]).replace(",", ""),
            )


def _hash(task: Task) -> str:
    return hashlib.sha256(task.says.encode()).hexdigest()[:16]


def _last_line(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[-1] if lines else type(problem).__name__


def _listed(jobs: Sequence[str]) -> str:
    """An array by its number alone."""
    return ", ".join(dict.fromkeys(job.partition("_")[0] for job in jobs))
