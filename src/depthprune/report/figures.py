"""Numbers and lists of layers as a reader wants them."""

import math
from collections.abc import Iterable


def measured(value: float, like: float | None = None) -> str:
    """Four decimals below 10, where accuracies and losses lie, fewer above: 0.7631, 55.02, 1,204, 3.1e+09.

    `like` is the value whose decimals to take: that of a standard error.
    """
    size = abs(value if like is None else like)
    if not math.isfinite(size) or size >= 1e7:
        return f"{value:.2g}"
    return f"{value:,.{4 if size < 10 else 2 if size < 1000 else 0}f}"


def count(number: float) -> str:
    """4.91 M, 8.03 B."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f}"


def seconds(value: float) -> str:
    """0.41 s, 12.3 s, 4 min 12 s, 2 h 05 min."""
    if value < 1:
        return f"{value:.2f} s"
    if value < 59.95:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def size(number: float) -> str:
    """812 MiB, 15.8 GiB."""
    return f"{number / 2**20:.0f} MiB" if number < 2**30 else f"{number / 2**30:.2f} GiB"


def percent(share: float) -> str:
    """71.1%."""
    return f"{100 * share:.1f}%"


def runs(layers: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending indices as contiguous runs, both ends included: 2, 3, 4, 8 → (2, 4), (8, 8)."""
    found: list[tuple[int, int]] = []
    for layer in layers:
        if found and found[-1][1] == layer - 1:
            found[-1] = (found[-1][0], layer)
        else:
            found.append((layer, layer))
    return found


def ranges(layers: Iterable[int]) -> str:
    """2-4,8: as the command line takes them."""
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs(layers))


def plural(number: int, noun: str) -> str:
    """1 layer, 6 layers."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
