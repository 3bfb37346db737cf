"""Works that take turns, so that whatever slows the machine down slows all of them down."""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from depthprune.bench.clock import Span, Timer, Work

FEWEST, MOST = 5, 200
"""Rounds of a measurement."""
SURE = 0.01
"""A standard error, relative, at which there are rounds enough."""

Rounds = dict[str, list[dict[str, Span]]]
"""By work, round and section."""


def in_turns(works: Mapping[str, Work], seconds: float) -> Rounds:
    """Rounds until each section's ratio, or time of one work alone, is `SURE`; one before does not count.

    They end before the seconds are over, but `FEWEST` come in any case.
    """
    interleaved(works, 1)
    start = time.perf_counter()
    found = interleaved(works, FEWEST)
    for rounds in range(FEWEST, MOST):
        another = (time.perf_counter() - start) * (rounds + 1) / rounds
        if another > seconds or _uncertainty(found) <= SURE:
            break
        for name, more in interleaved(works, 1).items():
            found[name] += more
    return found


def _uncertainty(rounds: Rounds) -> float:
    """The largest relative standard error of a section's processor time, or ratio of two."""
    works = list(rounds.values())
    errors = []
    for section in works[0][0]:
        times = [[spans[section].processor for spans in runs] for runs in works]
        found = spread(times[0] if len(times) == 1 else paired_ratios(*times))
        errors.append(found["error"] / found["median"])
    return max(errors)


def interleaved(works: Mapping[str, Work], rounds: int) -> Rounds:
    """A B A B …, each work once a round."""
    found: Rounds = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            timer = Timer()
            work(timer)
            found[name].append(timer.spans)
    return found


def paired_ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Each of `first` over the one of `second` that was measured after it, and over the one before it.

    What slows the machine down for longer than a round leaves such a ratio as it is, and a slow drift pulls
    the two of a neighbour in opposite directions.
    """
    after = [one / other for one, other in zip(first, second, strict=True)]
    before = [one / other for one, other in zip(first[1:], second[:-1], strict=True)]
    return after + before


def spread(values: Sequence[float]) -> dict[str, Any]:
    """The median, the quartiles, and the median's standard error.

    That is √(π/2)·σ/√n, with σ told from the quartiles as of a normal distribution.
    """
    if len(values) < 2:
        low = median = high = values[0]
    else:
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    error = math.sqrt(math.pi / 2) * (high - low) / 1.349 / math.sqrt(len(values))
    return {"median": median, "low": low, "high": high, "error": error, "n": len(values)}
