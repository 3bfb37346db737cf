"""What work costs: seconds and peak memory of a block, and the time that is left of a loop."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress

log = logging.getLogger("depthprune")

Item = TypeVar("Item")

WORTH_SAYING = 20.0
"""Seconds left from which on a loop says how long it will take, where there is no bar."""
BETWEEN_LINES = 60.0


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


def with_progress(
    items: Iterable[Item], description: str, sizes: Sequence[float] | None = None
) -> Iterator[Item]:
    """`items`, and how much of them is left, as `progress` shows it.

    Args:
        items: without a length nothing is shown.
        sizes: how much work each of them is; by default all are alike.
    """
    if not isinstance(items, Sequence):
        yield from items
        return
    sizes = [1.0] * len(items) if sizes is None else sizes
    with progress(sum(sizes), description) as advance:
        for item, size in zip(items, sizes, strict=True):
            yield item
            advance(size)


@contextmanager
def progress(total: float, description: str) -> Iterator[Callable[[float], None]]:
    """Shows what is left of `total`; the function that it gives is told of each part that is done.

    On a terminal that is a bar with the time left, which goes with the block. Elsewhere it is a line in the
    log once the first parts say that it will take a while, and then one a minute.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        with Progress(*Progress.get_default_columns(), console=console, transient=True) as bar:
            task = bar.add_task(description, total=total)
            yield lambda size: bar.advance(task, size)
    else:
        yield Lines(total, description)


class Advancing(Iterable[Item]):
    """Items that tell an `advance` of each of them, however often they are gone through."""

    def __init__(self, items: Iterable[Item], advance: Callable[[float], None]) -> None:
        self.items = items
        self.advance = advance

    def __iter__(self) -> Iterator[Item]:
        for item in self.items:
            yield item
            self.advance(1)


class Lines:
    """Told of each part that is done, logs how long the rest will take."""

    def __init__(self, total: float, description: str) -> None:
        self.total = total
        self.description = description
        self.done = 0.0
        self.start = time.monotonic()
        self.said: float | None = None

    def __call__(self, size: float) -> None:
        self.done += size
        now = time.monotonic()
        left = (now - self.start) * (self.total / self.done - 1)
        due = left > WORTH_SAYING if self.said is None else now - self.said > BETWEEN_LINES
        if due and self.done < self.total:
            self.said = now
            log.info(
                "%s: %.0f %% done, %s left", self.description, 100 * self.done / self.total, spoken(left)
            )


def spoken(seconds: float) -> str:
    """About how long that is: 40 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 90 * 60 else f"about {seconds / 3600:.1f} h"
