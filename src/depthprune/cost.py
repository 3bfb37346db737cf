"""Seconds and peak memory of a block of work."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Fills in `seconds` and `peak_bytes` when the block ends.

    Peak bytes are those of the accelerator, or else the resident memory of the whole process, model and
    libraries included.
    """
    cost: dict[str, Any] = {}
    _reset_peak()
    start = time.perf_counter()
    yield cost
    cost["seconds"] = round(time.perf_counter() - start, 3)
    cost["peak_bytes"] = _peak()


def _reset_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        try:
            Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark to what is resident now
        except OSError:  # some containers forbid it: the peak is then that of the process so far
            return


def _peak() -> int:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
