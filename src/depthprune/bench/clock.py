"""A piece of work in named sections, and what a section takes."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch

Section = Callable[[str], AbstractContextManager[None]]
"""Opens a section by its name: a `Timer`, or a `Counter`."""
Work = Callable[[Section], None]


@dataclass(frozen=True)
class Span:
    """Seconds of a section: on the wall's clock, and of all cores that worked for this process."""

    wall: float
    processor: float


class Timer:
    """Keeps the `Span` of each section; an accelerator is waited for at both ends."""

    def __init__(self) -> None:
        self.spans: dict[str, Span] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        collecting = gc.isenabled()
        gc.disable()  # as timeit does: it would come where it likes
        wall, processor = _now()
        try:
            yield
        finally:
            wall_end, processor_end = _now()
            if collecting:
                gc.enable()
        self.spans[name] = Span(wall_end - wall, processor_end - processor)


def _now() -> tuple[float, float]:
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter(), time.process_time()
