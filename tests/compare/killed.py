"""A comparison in a process of its own, to be killed."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from depthprune.compare import Cell

CALL = (
    "import pickle, sys; from depthprune.compare import compare;"
    "compare(pickle.load(open(sys.argv[1], 'rb')), sys.argv[2])"
)


def start_and_kill(grid: Sequence[Cell], output: Path, when: Callable[[], bool], later: float = 0.0) -> None:
    """Goes on with the comparison and kills it `later` seconds after `when`, or once it has ended."""
    stored = output.with_name("grid.pickle")
    stored.write_bytes(pickle.dumps(grid))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    call = [sys.executable, "-c", CALL, str(stored), str(output)]
    process = subprocess.Popen(call, env=environment, stderr=subprocess.DEVNULL)
    while process.poll() is None and not when():
        time.sleep(0.02)
    time.sleep(later)
    process.send_signal(signal.SIGKILL)
    process.wait()
