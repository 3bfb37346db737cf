from itertools import pairwise

import numpy as np
import pytest

from depthprune.bench.interleave import FEWEST, in_turns, interleaved, paired_ratios, spread


def recording(told, name):
    def work(section):
        with section("first"):
            told.append(name)
        with section("second"):
            pass

    return work


def test_works_take_turns():
    told = []
    rounds = interleaved({name: recording(told, name) for name in "AB"}, 3)
    assert told == list("ABABAB")
    assert {name: len(found) for name, found in rounds.items()} == {"A": 3, "B": 3}
    assert all(list(spans) == ["first", "second"] for found in rounds.values() for spans in found)
    assert all(span.wall >= 0 and span.processor >= 0 for span in rounds["A"][0].values())


def test_a_round_that_does_not_count_comes_first_and_a_few_come_at_least():
    told = []
    rounds = in_turns({name: recording(told, name) for name in "AB"}, -1)
    assert len(rounds["A"]) == len(rounds["B"]) == FEWEST
    assert told == list("AB") * (1 + FEWEST)


def test_steady_works_need_no_more_rounds_and_others_go_on(monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr("time.process_time", lambda: next(clock))  # every section takes 1
    told = []
    assert len(in_turns({"A": recording(told, "A")}, 60)["A"]) == FEWEST
    ticks = iter(k * k % 7 + 10 * k for k in range(10**6))  # between 6 and 15
    monkeypatch.setattr("time.process_time", lambda: next(ticks))
    assert len(in_turns({name: recording(told, name) for name in "AB"}, 60)["A"]) > FEWEST


def test_ratios_are_those_of_neighbours_in_time():
    order = [("A", 2.0), ("B", 1.0), ("A", 6.0), ("B", 4.0), ("A", 9.0), ("B", 3.0)]
    expected = []
    for (name, one), (_, other) in pairwise(order):
        expected.append(one / other if name == "A" else other / one)
    found = paired_ratios([2.0, 6.0, 9.0], [1.0, 4.0, 3.0])
    assert sorted(found) == sorted(expected)


def test_a_slow_drift_and_a_long_disturbance_leave_the_median_as_it_is():
    slower = [1.0 + 0.002 * k for k in range(20)]
    times = [4.0 * (5 if 3 <= k < 8 else 1) * slower[k] for k in range(20)]
    ratios = paired_ratios([time / 2 for time in times[::2]], times[1::2])
    assert spread(ratios)["median"] == pytest.approx(0.5, rel=0.005)


def test_median_and_quartiles():
    found = spread([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found["median"], found["low"], found["high"], found["n"]) == (3.0, 2.0, 4.0, 5)
    assert spread([7.0]) == {"median": 7.0, "low": 7.0, "high": 7.0, "error": 0.0, "n": 1}


def test_the_standard_error_is_that_of_medians_of_many_samples():
    draw = np.random.default_rng(0)
    samples = draw.normal(2.0, 0.3, (400, 50))
    errors = [spread(list(sample))["error"] for sample in samples]
    assert np.mean(errors) == pytest.approx(np.std(np.median(samples, axis=1)), rel=0.1)
