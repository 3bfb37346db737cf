"""Which differences the noise allows: paired tests over the same rows and seeds."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist, fmean, stdev

from depthprune.compare.results import Measure, Result
from depthprune.evaluation.measurement import LOWER_IS_BETTER

LEVEL = 0.05
"""Of all tests of one table together: the chance of one difference that is none."""


@dataclass(frozen=True)
class Difference:
    """How much better one method is than another, on the same rows and seeds.

    Attributes:
        better, worse: the methods, by the mean of what was measured.
        value: the mean difference, above zero in favour of `better`; of losses in nats a token.
        stderr: √(rows² + seeds²): of the mean over rows of the differences, and of their mean over seeds.
        p: two-sided, of the normal law.
        settled: whether it stands after Holm's correction for all tests of the table.
    """

    better: str
    worse: str
    value: float
    stderr: float
    p: float
    settled: bool = False


def compare_all(by_method: Mapping[str, Sequence[Result]], measure: Measure) -> list[Difference]:
    """The best method against each other one of the same size; corrected together.

    Methods whose rows were not kept, or are not the same rows, are left out.
    """
    known = {
        name: found
        for name, found in by_method.items()
        if found and all(measure in result.rows for result in found)
    }
    if len(known) < 2:
        return []
    order = sorted(known, key=lambda name: _goodness(known[name], measure), reverse=True)
    best, *others = order
    found = [difference(best, known[best], name, known[name], measure) for name in others]
    return holm([one for one in found if one is not None])


def difference(
    one_name: str, one: Sequence[Result], other_name: str, other: Sequence[Result], measure: Measure
) -> Difference | None:
    """Of two methods, over the seeds that both have; None where there is none, or their rows differ.

    For a mean over rows with equal counts (accuracy) it is the paired test of the row differences; for a
    ratio of sums (loss) the linearised one.
    """
    theirs = {result.seed: result for result in other}
    pairs = [(result, theirs[result.seed]) for result in one if result.seed in theirs]
    if not pairs:
        return None
    sign = -1.0 if measure[1] in LOWER_IS_BETTER else 1.0
    per_seed, per_row = [], []
    for mine, its in pairs:
        (sums, counts), (other_sums, other_counts) = mine.rows[measure], its.rows[measure]
        if counts != other_counts:
            return None
        total = math.fsum(counts)
        gaps = [sign * (a - b) for a, b in zip(sums, other_sums, strict=True)]
        mean = math.fsum(gaps) / total
        per_seed.append(mean)
        per_row.append(
            [(gap - mean * count) * len(counts) / total for gap, count in zip(gaps, counts, strict=True)]
        )
    n = len(per_row[0])
    rest = [fmean(row) for row in zip(*per_row, strict=True)]
    of_rows = math.sqrt(math.fsum(value**2 for value in rest) / (n * (n - 1))) if n > 1 else math.inf
    of_seeds = stdev(per_seed) / math.sqrt(len(per_seed)) if len(per_seed) > 1 else 0.0
    value, stderr = fmean(per_seed), math.hypot(of_rows, of_seeds)
    names = (one_name, other_name) if value >= 0 else (other_name, one_name)
    certain = 1.0 if value == 0 else 0.0
    p = 2 * NormalDist().cdf(-abs(value) / stderr) if stderr else certain
    return Difference(*names, abs(value), stderr, p)


def standing(tests: Sequence[Difference]) -> tuple[str, list[str], list[str]]:
    """Of the tests of one method against each other: that method, those it clearly beats, and the ties."""
    common = set.intersection(*({one.better, one.worse} for one in tests))
    best = tests[0].better if tests[0].better in common else common.pop()
    beaten = [one.worse for one in tests if one.settled and one.better == best]
    tied = [one.worse if one.better == best else one.better for one in tests if not one.settled]
    return best, beaten, tied


def share_kept(value: float, whole: float, metric: str) -> float:
    """How much of the whole model's quality there is; of what should be low, the whole model's over it."""
    part, of = (whole, value) if metric in LOWER_IS_BETTER else (value, whole)
    return part / of if of else 1.0  # where the whole model has none there is none to lose


def holm(found: Iterable[Difference], level: float = LEVEL) -> list[Difference]:
    """Holm's step-down correction: those that stand though as many tests were made, the smallest p first."""
    ordered = sorted(found, key=lambda one: one.p)
    stands, settled = True, []
    for i, one in enumerate(ordered):
        stands = stands and one.p <= level / (len(ordered) - i)
        settled.append(replace(one, settled=stands))
    return settled


def _goodness(results: Sequence[Result], measure: Measure) -> float:
    value = fmean(result.results[measure]["value"] for result in results)
    return -value if measure[1] in LOWER_IS_BETTER else value
