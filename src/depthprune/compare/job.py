"""A task as a job of a cluster: what it does when it is preempted or its time is over."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depthprune.compare.slurm_options import SIGNAL_SECONDS
from depthprune.compare.tasks import RUNS, Task, report
from depthprune.errors import UserError
from depthprune.files import OWN

NO_PROGRESS = ("recipe.yaml", "environment.json", "lock", "report.html", "metrics.jsonl")
NOTHING_LASTING = ("scoring", "gradients")
"""Folders and files of a run folder that a killed run does not go on from."""

State = dict[str, tuple[int, int]]


@dataclass
class Job:
    """Called on the cluster's machine. A run that is requeued goes on from its folder.

    Attributes:
        minutes: that it may take.
    """

    task: Task
    minutes: int
    _since: float = 0.0
    _before: State = field(default_factory=dict)

    def __call__(self) -> None:
        self._since, self._before = time.monotonic(), self._state()
        report(self.task)

    def checkpoint(self) -> Any:
        """submitit asks for this before it requeues: the same once more.

        Raises:
            UserError: the time was over, and nothing came of it that the next try could go on from.
        """
        from submitit.helpers import DelayedSubmission

        left = 60 * self.minutes - (time.monotonic() - self._since)
        if left < 2 * SIGNAL_SECONDS and self._state() == self._before:
            raise UserError(
                f"{self.minutes} minutes are not enough for a step to go on from: raise --slurm time"
            )
        return DelayedSubmission(Job(self.task, self.minutes))

    def _state(self) -> State:
        """Of what stands in the run folder, and what a killed run goes on from."""
        own = self.task.root / RUNS / self.task.name / OWN
        found = {}
        for folder, folders, names in os.walk(own):
            folders[:] = [name for name in folders if name not in NOTHING_LASTING and name[0] != "."]
            for path in (Path(folder) / name for name in names if name[0] != "." and name not in NO_PROGRESS):
                if path.exists():
                    status = path.stat()
                    found[str(path)] = status.st_mtime_ns, status.st_size
        return found
