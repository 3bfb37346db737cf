"""Several runs at once on this machine: a process each, as many as memory, cores and GPUs allow."""

import logging
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from depthprune.compare.grid import Cell
from depthprune.compare.memory import free_memory, most_needed
from depthprune.compare.tasks import JOBS, Outcome, Task, forget, reported

log = logging.getLogger("depthprune")

LOOKS_EVERY, WAITS = 0.1, 1.0
"""Seconds between two looks at the processes, and of one wait for them."""
PATIENCE = 10.0
"""Seconds for a process to end cleanly."""
THREADS = "OMP_NUM_THREADS"


@dataclass
class _Running:
    process: "subprocess.Popen[bytes]"
    root: Path
    place: int
    log: Path


class Local:
    """As many runs at once as memory allows; where there are GPUs, one on each.

    A run that ends with its process, without a word, has failed. All end when this process does.
    """

    elsewhere = False
    apart = True

    def __init__(self) -> None:
        self.at_once = 0
        self._gpus: list[str] = []
        self._running: dict[str, _Running] = {}

    def prepare(self, root: Path, cells: Sequence[Cell]) -> None:
        if not cells:
            return
        (root / JOBS).mkdir(exist_ok=True)
        self._gpus = visible_gpus()
        cores = _cores()
        needed, free = most_needed([cell.recipe for cell in cells]), free_memory()
        most = len(self._gpus) or (1 if torch.accelerator.is_available() else cores)
        before, self.at_once = self.at_once, max(1, min(most, int(free // needed)))
        if before == self.at_once:
            return
        places = f"{len(self._gpus)} GPUs" if self._gpus else f"{cores} cores"
        log.info(
            "%d at once: a run may need %.1f GB of the %.1f GB of memory that are free, and there are %s",
            self.at_once,
            needed / 1e9,
            free / 1e9,
            places,
        )

    def room(self) -> int:
        return self.at_once - len(self._running)

    def running(self) -> Collection[str]:
        return self._running

    def start(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            taken = {one.place for one in self._running.values()}
            place = next(place for place in range(self.at_once) if place not in taken)
            forget(task.root, task.name)
            said = task.root / JOBS / f"{task.name}.log"
            with said.open("ab") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "depthprune.compare.child"],
                    stdin=subprocess.PIPE,
                    stdout=file,
                    stderr=file,
                    env=self._environment(place),
                    start_new_session=True,  # Ctrl-C is for us, and we end it
                )
            self._running[task.name] = _Running(process, task.root, place, said)
            assert process.stdin is not None
            process.stdin.write(pickle.dumps(task))
            process.stdin.flush()  # and stays open: its end is our end

    def _environment(self, place: int) -> dict[str, str]:
        found = {THREADS: str(max(1, _cores() // self.at_once)), **os.environ}
        if self._gpus:
            found["CUDA_VISIBLE_DEVICES"] = self._gpus[place]
        return found

    def ended(self) -> dict[str, Outcome]:
        ends = time.monotonic() + WAITS
        while not (gone := [name for name, one in self._running.items() if one.process.poll() is not None]):
            if time.monotonic() > ends:
                return {}
            time.sleep(LOOKS_EVERY)
        return {name: self._outcome(name) for name in gone}

    def _outcome(self, name: str) -> Outcome:
        one = self._running.pop(name)
        code = one.process.returncode
        if (found := reported(one.root, name)) is not None:
            return found
        how = f"signal {-code}" if code < 0 else f"code {code}"
        hint = "; most likely the memory was full" if code == -9 else ""
        return Outcome(f"its process ended with {how}{hint}: its log is {one.log}")

    def close(self) -> None:
        for one in self._running.values():
            one.process.terminate()
        ends = time.monotonic() + PATIENCE
        for one in self._running.values():
            try:
                one.process.wait(max(0.0, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()
                one.process.wait()
        self._running.clear()


def _cores() -> int:
    """Those that this process may use, where the system says which."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them, which may be by number or by a name of their own."""
    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]
