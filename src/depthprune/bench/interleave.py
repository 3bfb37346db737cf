"""Works that take turns, so that whatever slows the machine down slows all of them down."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from depthprune.bench.clock import Span, Timer, Work

FEWEST, MOST = 3, 100
"""Rounds of a measurement."""

Rounds = dict[str, list[dict[str, Span]]]
"""By work, round and section."""


def in_turns(works: Mapping[str, Work], seconds: float) -> Rounds:
    """As many rounds as take about so long, `FEWEST` at least, behind one that does not count."""
    start = time.perf_counter()
    interleaved(works, 1)
    a_round = time.perf_counter() - start
    return interleaved(works, max(FEWEST, min(MOST, int(seconds / a_round) - 1)))


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
    """The median and the quartiles."""
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0], "n": len(values)}
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "low": low, "high": high, "n": len(values)}
