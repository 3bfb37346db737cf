"""The table of a comparison: a row for each method and size, over its seeds, and what the noise allows."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

from depthprune.compare.limit import kept_sentence
from depthprune.compare.noise import Difference, compare_all, share_kept, standing
from depthprune.compare.results import Measure, Result, Results
from depthprune.report.table import table_warnings

BEFORE = ("accuracy", "exact_match", "rougeL", "bert_score", "perplexity", "loss")
"""Which measure of a dataset is asked first: what a user wants, before what is only near it."""

Size = tuple[float | None, str]
"""How much goes, and the method."""


def comparison(results: Results, kept: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """The content of `comparison.json`; `kept` is what a search by a limit has found so far."""
    groups = grouped(results.done)
    measures = measures_of(results.done)
    differences = {
        ratio: found for ratio in ratios_of(results.done) if (found := _differences(groups, ratio, measures))
    }
    whole = results.done[0] if results.done else None
    dense = {found[0].tuning: found for (ratio, _), found in groups.items() if ratio is None}
    return {
        **results.recipe,
        "measures": [{"dataset": dataset, "metric": metric} for dataset, metric in measures],
        "base": None if whole is None else _base(whole, measures),
        "rows": [
            _row(method, ratio, found, dense.get(found[0].tuning, ()), measures)
            | {"latency": _latency(found[0], results.latency)}
            for (ratio, method), found in groups.items()
        ],
        "differences": [
            {"ratio": ratio, "measure": {"dataset": dataset, "metric": metric}, **asdict(one)}
            for ratio, by_measure in differences.items()
            for (dataset, metric), found in by_measure.items()
            for one in found
        ],
        "kept": list(kept),
        "sentences": [
            *map(kept_sentence, kept),
            *sentences(results.done, differences, measures),
            *table_warnings({"rows": {result.name: _as_row(result) for result in results.done}}),
        ],
        "failed": results.failed,
        "missing": results.missing,
        "environment": results.environment,
    }


def grouped(done: Sequence[Result]) -> dict[Size, list[Result]]:
    """The runs of each method and size: the whole model first, then a ratio after the other."""
    groups: dict[Size, list[Result]] = defaultdict(list)
    for ratio in ratios_of(done):
        for result in done:
            if result.ratio == ratio:
                groups[ratio, result.method].append(result)
    return dict(groups)


def ratios_of(done: Sequence[Result]) -> list[float | None]:
    """None for the whole model, then the ratios, ascending."""
    found = {result.ratio for result in done}
    return [*([None] if None in found else []), *sorted(ratio for ratio in found if ratio is not None)]


def measures_of(done: Sequence[Result]) -> list[Measure]:
    """What was measured, dataset by dataset, in the order in which it is asked for."""
    found = dict.fromkeys(measure for result in done for measure in result.results)
    datasets = list(dict.fromkeys(dataset for dataset, _ in found))

    def rank(measure: Measure) -> tuple[int, int]:
        known = measure[1] in BEFORE
        return datasets.index(measure[0]), BEFORE.index(measure[1]) if known else len(BEFORE)

    return sorted(found, key=rank)


def _differences(
    groups: Mapping[Size, list[Result]], ratio: float | None, measures: Sequence[Measure]
) -> dict[Measure, list[Difference]]:
    by_method = {method: found for (size, method), found in groups.items() if size == ratio}
    found = {measure: compare_all(by_method, measure) for measure in measures}
    return {measure: tests for measure, tests in found.items() if tests}


def _base(whole: Result, measures: Sequence[Measure]) -> dict[str, Any]:
    return {
        "layers": whole.num_layers,
        "parameters": whole.base_parameters,
        "values": [whole.base.get(measure) for measure in measures],
    }


def _row(
    method: str,
    ratio: float | None,
    found: Sequence[Result],
    dense: Sequence[Result],
    measures: Sequence[Measure],
) -> dict[str, Any]:
    """What a method found at a size; `dense` are the runs of the whole model that were tuned alike."""
    first = found[0]
    base = [first.base]
    outcomes, whole = [result.results for result in found], [result.results for result in dense] or base
    return {
        "method": method,
        "ratio": ratio,
        "seeds": [result.seed for result in found],
        "layers": first.layers,
        "num_layers": first.num_layers,
        "parameters": first.parameters,
        "share": first.parameters / first.base_parameters,
        "removed": [list(result.removed) for result in found],
        "kept_of": dense[0].method if dense else None,
        "values": [_value(measure, outcomes, whole) for measure in measures],
        "cut": [
            _value(measure, [result.cut for result in found], base) if first.cut else None
            for measure in measures
        ],
        "seconds": {key: fmean(result.seconds[key] for result in found) for key in first.seconds},
        "peak_bytes": max(result.peak_bytes for result in found),
        "runs": [result.name for result in found],
    }


def _latency(one: Result, known: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of a token of a model of this depth; of the whole one the share is 1."""
    if known and one.layers == one.num_layers:
        return {"share": 1.0, "error": 0.0}
    return known.get(str(one.layers))


def _value(
    measure: Measure,
    found: Sequence[Mapping[Measure, dict[str, Any]]],
    whole: Sequence[Mapping[Measure, dict[str, Any]]],
) -> dict[str, Any] | None:
    """The mean over seeds, its spread, and how much of the whole model's mean it is."""
    each = [results[measure] for results in found if measure in results]
    if not each:
        return None
    values = [one["value"] for one in each]
    wanted = [results[measure]["value"] for results in whole if measure in results]
    mean, of = fmean(values), fmean(wanted) if wanted else None
    return {
        "mean": mean,
        "each": values,
        "sd": stdev(values) if len(values) > 1 else None,
        "stderr": each[0]["stderr"],
        "n": each[0]["n"],
        "kept": share_kept(mean, of, measure[1]) if of and mean else None,
    }


def sentences(
    done: Sequence[Result],
    differences: Mapping[float | None, Mapping[Measure, Sequence[Difference]]],
    measures: Sequence[Measure],
) -> list[str]:
    """What the tests allow to say, and no more: of the first measure that was tested, size by size."""
    found = []
    for ratio, by_measure in differences.items():
        if ratio is None:
            continue
        measure = next((one for one in measures if one in by_measure), None)
        if measure is not None:
            found.append(_sentence(ratio, measure, by_measure[measure], done))
    seeds = {result.seed for result in done}
    if found and len(seeds) == 1:
        found.append("With one seed, the tests know the noise of the rows and not that of tuning again.")
    return found


def _as_row(result: Result) -> dict[str, Any]:
    """Of an `eval.json`."""
    return {"results": list(result.results.values())}


def _sentence(ratio: float, measure: Measure, tests: Sequence[Difference], done: Sequence[Result]) -> str:
    dataset, metric = measure
    best, beaten, tied = standing(tests)
    rows = next(len(result.rows[measure][0]) for result in done if measure in result.rows)
    words = f"With {ratio:.0%} of the layers gone, {best} has the best {metric} on {dataset} ({rows} rows)"
    if beaten:
        words += f", clearly better than {_listed(beaten)}"
    if tied:
        words += "; not told apart from it: " if beaten else ", but nothing tells it apart from "
        words += _listed(tied)
    return words + "."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
