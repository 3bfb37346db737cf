"""What `--slurm KEY=VALUE` asks of sbatch: its own long options; what is in them sbatch itself checks."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from depthprune.errors import UserError

SIGNAL_SECONDS = 90
"""Before the end of its time a job is told, and puts itself into the queue again."""
LEAST_MINUTES = 5
OURS = {
    "array": "each run is an element of an array of our own",
    "job-name": "jobs are named by us, to be found again",
    "output": "logs lie in the folder jobs of the output",
    "error": "logs lie in the folder jobs of the output",
    "open-mode": "logs are added to",
    "signal": "a signal is what requeues a job in time",
    "wrap": "jobs are ours",
    "wait": "compare waits by itself",
    "test-only": "compare has --dry-run",
    "parsable": "sbatch is read by us",
    "chdir": "paths are those of the folder that compare is called in",
    "no-requeue": "a job that is preempted is requeued",
    "nodes": "a run is one process",
    "ntasks": "a run is one process",
    "ntasks-per-node": "a run is one process",
}
"""Options of sbatch that are not the user's to set, and why."""
PARALLEL = "array-parallelism"
"""submitit's name for the number behind the % of an array."""
USUAL = (
    "partition",
    "time",
    "mem",
    "gpus",
    "cpus-per-task",
    "account",
    "qos",
    "constraint",
    "exclude",
    PARALLEL,
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?")


@dataclass(frozen=True)
class Options:
    """What is asked of each job.

    Attributes:
        flags: sbatch's long options without dashes, True for those that have no value.
        minutes: that a job may take before it is requeued.
        parallelism: how many of an array may run at once.
    """

    flags: Mapping[str, str | bool]
    minutes: int
    parallelism: int | None = None

    @property
    def arguments(self) -> list[str]:
        """As on the command line of sbatch."""
        found = [f"--{key}" if value is True else f"--{key}={value}" for key, value in self.flags.items()]
        return [*found, f"--time={self.minutes}"]


def parse_options(texts: Sequence[str]) -> Options:
    """Of `KEY=VALUE` texts; raises `UserError` for what cannot be, before sbatch is asked about the rest."""
    flags: dict[str, str | bool] = {}
    for text in texts:
        key, equals, value = text.strip().removeprefix("--").partition("=")
        key = key.strip().replace("_", "-")
        if not re.fullmatch(r"[a-z][a-z-]+", key) or (equals and not value.strip()) or _CONTROL.search(text):
            raise UserError(
                f"--slurm {text!r:.100}: write a long option of sbatch and its value, such as partition=gpu"
            )
        if key in OURS:
            raise UserError(f"--slurm {key}: {OURS[key]}; leave it out")
        if key in flags:
            raise UserError(f"--slurm {key} stands there twice")
        if not equals and (close := get_close_matches(key, USUAL, n=1, cutoff=0.9)):
            raise UserError(f"--slurm {key}: it takes a value, --slurm {close[0]}=…")
        flags[key] = value.strip() if equals else True
    if not isinstance(limit := flags.pop("time", None), str):
        raise UserError("no time limit for the jobs: name one with --slurm time=4:00:00")
    parallelism = flags.pop(PARALLEL, None)
    if parallelism is not None and not re.fullmatch(r"[1-9]\d{0,8}", str(parallelism)):
        raise UserError(f"--slurm {PARALLEL}={parallelism}: write a number of jobs from 1 on")
    return Options(flags, parse_minutes(limit), None if parallelism is None else int(parallelism))


def parse_minutes(text: str) -> int:
    """Of minutes[:seconds], hours:minutes:seconds or days-hours[:minutes[:seconds]], as sbatch takes them."""
    found = _TIME.fullmatch(text)
    if found is None:
        raise UserError(
            f"--slurm time={text:.100}: write minutes, hours:minutes:seconds or days-hours:minutes"
        )
    days, first, second, third = (None if part is None else int(part) for part in found.groups())
    if days is not None:
        seconds = days * 86400 + (first or 0) * 3600 + (second or 0) * 60 + (third or 0)
    elif third is not None:
        seconds = (first or 0) * 3600 + (second or 0) * 60 + third
    else:
        seconds = (first or 0) * 60 + (second or 0)
    if seconds < 60 * LEAST_MINUTES:
        raise UserError(
            f"--slurm time={text}: a job is told {SIGNAL_SECONDS} s before its end; give it "
            f"{LEAST_MINUTES} minutes or more"
        )
    return -(-seconds // 60)
