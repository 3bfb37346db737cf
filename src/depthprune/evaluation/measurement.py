"""A measured value with its standard error."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

OPTIONAL = ("majority", "of")
LOWER_IS_BETTER = ("loss", "perplexity")


@dataclass(frozen=True)
class Measurement:
    """One metric on one dataset.

    metric: "accuracy", "exact_match", "rougeL", "loss" or "perplexity".
    value: accuracy, exact match and ROUGE-L lie in [0, 1]; loss is in nats a token.
    n: what the standard error counts: rows, or windows for text.
    stderr: standard error of the mean; None where n is 1.
    majority: accuracy of the best constant guess, where there are choices.
    of: how many rows or windows there are, where not all were measured.
    rows: of each of the n a sum, and what it is divided by: hits and ones, or nats and tokens.
    """

    dataset: str
    metric: str
    value: float
    n: int
    stderr: float | None
    majority: float | None = None
    of: int | None = None
    rows: tuple[Sequence[float], Sequence[float]] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def mean(
        cls, dataset: str, metric: str, values: Sequence[float], majority: float | None = None
    ) -> "Measurement":
        """Of a value for each row."""
        return cls.ratio(dataset, metric, values, [1.0] * len(values), majority)

    @classmethod
    def ratio(
        cls,
        dataset: str,
        metric: str,
        sums: Sequence[float],
        counts: Sequence[float],
        majority: float | None = None,
    ) -> "Measurement":
        """Of a sum and a count for each row, such as nats and tokens."""
        value, stderr = ratio_and_stderr(sums, counts)
        return cls(dataset, metric, value, len(sums), stderr, majority, rows=(sums, counts))

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the rows; `majority` and `of` only where there is one."""
        found = {key: value for key, value in vars(self).items() if key != "rows"}
        return {key: value for key, value in found.items() if key not in OPTIONAL or value is not None}


def ratio_and_stderr(sums: Sequence[float], counts: Sequence[float]) -> tuple[float, float | None]:
    """Σ sums / Σ counts, and its standard error over the n items.

    With equal counts it is the mean, with the standard error of the sample's standard deviation (n − 1), as
    lm-eval has it; else it has the linearised error of a ratio: √(Σ (s_i − r c_i)² / (n (n − 1))) / mean(c).
    """
    n, total = len(sums), math.fsum(counts)
    ratio = math.fsum(sums) / total
    if n < 2:
        return ratio, None
    squares = math.fsum((s - ratio * c) ** 2 for s, c in zip(sums, counts, strict=True))
    return ratio, math.sqrt(squares / (n * (n - 1))) / (total / n)
