"""A measured value with its standard error."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Measurement:
    """One metric on one dataset.

    metric: "accuracy", "exact_match", "rougeL", "loss" or "perplexity".
    value: accuracy, exact match and ROUGE-L lie in [0, 1]; loss is in nats a token.
    n: what the standard error counts: rows, or windows for text.
    stderr: standard error of the mean; None where n is 1.
    majority: accuracy of the best constant guess, where there are choices.
    of: how many rows or windows there are, where not all were measured.
    """

    dataset: str
    metric: str
    value: float
    n: int
    stderr: float | None
    majority: float | None = None
    of: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON; `majority` and `of` only where there is one."""
        optional = ("majority", "of")
        return {key: value for key, value in asdict(self).items() if key not in optional or value is not None}


def mean_and_stderr(values: list[float]) -> tuple[float, float | None]:
    """The mean, and its standard error from the sample's standard deviation (n − 1), as lm-eval has it."""
    return ratio_and_stderr(values, [1.0] * len(values))


def ratio_and_stderr(sums: list[float], counts: list[float]) -> tuple[float, float | None]:
    """Σ sums / Σ counts, and its standard error over the n items.

    The linearised error of a ratio: √(Σ (s_i − r c_i)² / (n (n − 1))) / mean(c); with equal counts it is the
    standard error of the mean.
    """
    n, total = len(sums), math.fsum(counts)
    ratio = math.fsum(sums) / total
    if n < 2:
        return ratio, None
    squares = math.fsum((s - ratio * c) ** 2 for s, c in zip(sums, counts, strict=True))
    return ratio, math.sqrt(squares / (n * (n - 1))) / (total / n)
