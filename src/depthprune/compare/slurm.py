"""The queue of SLURM, by its own commands; jobs are sent through submitit."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depthprune.compare.cluster import Cluster
from depthprune.compare.slurm_options import SIGNAL_SECONDS, Options, parse_options
from depthprune.errors import UserError

PATIENCE = 120.0
"""Seconds for one of SLURM's commands."""
ALWAYS = 10**6
"""Times that a job may be requeued: whether it makes headway is what counts, see `Job`."""
ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
}  # fmt: skip
"""States that a job does not leave."""
HINTS = {"OUT_OF_MEMORY": "; ask for more with --slurm mem", "TIMEOUT": "; ask for more with --slurm time"}
DEAF = """sh -c 'trap "" USR2; exec "$0" "$@"'"""
"""Before a command: the signal that asks for a checkpoint does not end it before submitit listens to it."""
# Since 22.05 srun does not take this over from sbatch.
SETUP = ['[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"']


def slurm_cluster(texts: Sequence[str]) -> Cluster:
    """The cluster that sbatch of this machine sends to, with the options of `--slurm`, which it has accepted.

    Raises:
        UserError: there is no SLURM or submitit here, or sbatch refuses the options.
    """
    options = parse_options(texts)
    if importlib.util.find_spec("submitit") is None:
        raise UserError("--executor slurm needs submitit: pip install 'depthprune[slurm]'")
    if shutil.which("sbatch") is None:
        raise UserError("there is no sbatch here: call --executor slurm where jobs are submitted from")
    tried = _said(["sbatch", "--test-only", *options.arguments, "--wrap=true"])
    if tried.returncode != 0:
        raise UserError(f"sbatch refuses {' '.join(options.arguments)}: {_first_line(tried.stderr)}")
    return Cluster(Slurm(options), options.minutes)


class Slurm:
    """What `Cluster` asks of SLURM."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def sender(self, folder: Path, name: str) -> Any:
        from submitit import SlurmExecutor

        python = f"{DEAF} {shlex.quote(sys.executable)}"
        executor = SlurmExecutor(folder, max_num_timeout=ALWAYS, python=python)
        parallelism = self.options.parallelism
        executor.update_parameters(
            job_name=name,
            time=self.options.minutes,
            signal_delay_s=SIGNAL_SECONDS,
            stderr_to_stdout=True,
            wckey=None,
            setup=SETUP,
            additional_parameters={**self.options.flags, "requeue": True},
            **({} if parallelism is None else {"array_parallelism": parallelism}),
        )
        return executor

    def listed(self) -> Mapping[str, tuple[str, str]] | None:
        # Unless asked for all states, squeue leaves out a preempted job until it is requeued.
        call = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%j"]
        found = _said([*call, f"--user={os.getuid()}"])
        if found.returncode != 0:
            return None
        lines = [line.split("|", 2) for line in found.stdout.splitlines() if line.count("|") >= 2]
        return {job.strip(): (state, name) for job, state, name in lines if state not in ENDED}

    def cancel(self, jobs: Sequence[str]) -> None:
        _said(["scancel", *jobs])

    def fate(self, job: str) -> str:
        """By what the controller remembers for some minutes, or accounting, where there is some."""
        told = _said(["scontrol", "--oneliner", "show", "job", job]).stdout
        found = re.search(r"JobState=(\w+)", told)
        if found is None:
            told = _said(["sacct", "-n", "-X", "-P", "-o", "State", "-j", job]).stdout
            found = re.match(r"(\w+)", told)
        if found is None:
            return "ended without a word"
        return f"ended as {found[1]}{HINTS.get(found[1], '')}"


def _said(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """What a command says; where it cannot be had, that it failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return subprocess.CompletedProcess(command, 1, "", str(problem))


def _first_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[0].removeprefix("sbatch: ").removeprefix("error: ") if lines else "it says no reason"
