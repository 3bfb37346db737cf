"""`python -m depthprune.compare.child`: does the task that stdin brings, and ends when stdin does."""

import os
import pickle
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

from depthprune.compare.tasks import report

PATIENCE = 10.0
"""Seconds for the run to end cleanly, after the word that it is to end."""


def _end(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)  # through the run, which gives its folder free


def _end_with_the_parent() -> None:
    """However that ended: its end of the pipe is then closed."""
    while os.read(0, 1):  # not by sys.stdin, whose lock would be held when the process ends
        continue
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(PATIENCE)
    os._exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    task = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    report(task)
