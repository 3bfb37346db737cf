"""Results of runs that never ran."""

from depthprune.compare.results import Result

MEASURE = ("news", "accuracy")


def result(
    method, rows, seed=1, ratio=0.25, measure=MEASURE, counts=None, removed=(1, 2), base=0.8, tuning=None
) -> Result:
    """One run with these values row by row."""
    counts = counts or [1.0] * len(rows)
    value = sum(rows) / sum(counts)
    found = {"dataset": measure[0], "metric": measure[1], "value": value, "n": len(rows), "stderr": 0.01}
    return Result(
        method=method,
        ratio=ratio,
        seed=seed,
        name=f"{method}-{seed}",
        layers=6 - len(removed),
        parameters=60 if removed else 100,
        base_parameters=100,
        num_layers=6,
        tuning=tuning,
        results={measure: found},
        rows={measure: (list(rows), counts)},
        base={measure: {**found, "value": base}},
        cut={},
        removed=tuple(removed),
        seconds={"choosing": 1.0, "tuning": 2.0, "all": 3.0},
        peak_bytes=5,
    )
