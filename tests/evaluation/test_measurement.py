import math
import statistics

import pytest

from depthprune.evaluation.measurement import Measurement, ratio_and_stderr


def test_stderr_of_a_proportion_is_lm_evals():
    found = Measurement.mean("d", "accuracy", [1.0, 0.0, 0.0, 1.0, 1.0])
    value, stderr = found.value, found.stderr
    assert value == 0.6
    assert stderr == pytest.approx(math.sqrt(0.6 * 0.4 / 4))


def test_stderr_of_a_mean():
    values = [0.5, 0.1, 0.9, 0.3]
    assert Measurement.mean("d", "accuracy", values).stderr == pytest.approx(statistics.stdev(values) / 2)


def test_one_value_has_no_stderr():
    assert ratio_and_stderr([0.5], [1.0]) == (0.5, None)


def test_ratio_weighs_by_count():
    sums, counts = [4.0, 30.0, 5.0], [2.0, 10.0, 3.0]
    ratio, stderr = ratio_and_stderr(sums, counts)
    assert ratio == 39 / 15
    residuals = [s - ratio * c for s, c in zip(sums, counts, strict=True)]
    assert stderr == pytest.approx(statistics.stdev(residuals) / math.sqrt(3) / 5)  # the residuals' mean is 0


def test_dict_has_the_majority_only_where_there_is_one():
    assert Measurement("d", "loss", 1.0, 2, 0.5).to_dict() == {
        "dataset": "d",
        "metric": "loss",
        "value": 1.0,
        "n": 2,
        "stderr": 0.5,
    }
    assert Measurement("d", "accuracy", 1.0, 2, 0.5, 0.25).to_dict()["majority"] == 0.25
