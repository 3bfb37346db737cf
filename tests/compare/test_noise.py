"""The tests over rows and seeds, against textbook forms."""

import math
import random
from statistics import NormalDist, mean, stdev

import pytest
from compare.results_of import MEASURE, result

from depthprune.compare.noise import Difference, compare_all, difference, holm


def draws(share, n, seed):
    draw = random.Random(seed)
    return [float(draw.random() < share) for _ in range(n)]


def test_with_one_seed_it_is_the_paired_test_of_the_rows():
    one, other = draws(0.7, 200, 1), draws(0.5, 200, 2)
    found = difference("a", [result("a", one)], "b", [result("b", other)], MEASURE)
    gaps = [x - y for x, y in zip(one, other, strict=True)]
    assert found.value == pytest.approx(mean(gaps))
    assert found.stderr == pytest.approx(stdev(gaps) / math.sqrt(200), rel=3e-3)
    assert found.p == pytest.approx(2 * NormalDist().cdf(-found.value / found.stderr))
    assert (found.better, found.worse) == ("a", "b")


def test_of_losses_the_lower_is_better_and_tokens_are_the_weights():
    measure, counts = ("text", "loss"), [10.0, 30.0, 20.0]
    one = result("a", [20.0, 90.0, 50.0], measure=measure, counts=counts)
    other = result("b", [30.0, 80.0, 70.0], measure=measure, counts=counts)
    found = difference("a", [one], "b", [other], measure)
    assert found.value == pytest.approx((180 - 160) / 60) and found.better == "a"
    unlike = result("b", [30.0, 80.0, 70.0], measure=measure, counts=[10.0, 30.0, 21.0])
    assert difference("a", [one], "b", [unlike], measure) is None


def test_seeds_that_disagree_widen_it_and_only_common_ones_count():
    rows = draws(0.6, 400, 3)
    better = [1.0] * 40 + rows[40:]
    steady = difference(
        "a", [result("a", better, s) for s in (1, 2)], "b", [result("b", rows, s) for s in (1, 2, 3)], MEASURE
    )
    moving = difference(
        "a",
        [result("a", better, 1), result("a", rows, 2)],
        "b",
        [result("b", rows, s) for s in (1, 2)],
        MEASURE,
    )
    assert moving.stderr > 2 * steady.stderr
    assert difference("a", [result("a", rows, 1)], "b", [result("b", rows, 2)], MEASURE) is None


def test_equal_rows_are_a_tie():
    rows = draws(0.5, 50, 4)
    (found,) = compare_all({"a": [result("a", rows)], "b": [result("b", rows)]}, MEASURE)
    assert found.p == 1 and not found.settled


def test_holm_by_hand():
    found = holm([Difference("a", str(i), 0.1, 0.1, p) for i, p in enumerate((0.04, 0.01, 0.03, 0.005))])
    # 0.005 ≤ 0.05/4, 0.01 ≤ 0.05/3, 0.03 > 0.05/2: the rest falls with it.
    assert [(one.p, one.settled) for one in found] == [
        (0.005, True),
        (0.01, True),
        (0.03, False),
        (0.04, False),
    ]


def test_equal_methods_are_told_apart_as_rarely_as_promised():
    wrong = 0
    for trial in range(400):
        methods = {name: [result(name, draws(0.6, 120, f"{trial}{name}"))] for name in "ab"}
        wrong += any(one.settled for one in compare_all(methods, MEASURE))
    assert wrong <= 0.05 * 400 + 3 * math.sqrt(400 * 0.05 * 0.95)


def test_a_true_difference_is_found():
    methods = {"a": [result("a", draws(0.8, 400, 5))], "b": [result("b", draws(0.5, 400, 6))]}
    (found,) = compare_all(methods, MEASURE)
    assert found.settled and found.better == "a"
