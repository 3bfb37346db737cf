"""The evaluation stage: measures every model of the table → eval.json, and row by row → per-row.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from depthprune.cost import measured
from depthprune.evaluation.evaluate import evaluate as evaluate_on
from depthprune.evaluation.measurement import Measurement
from depthprune.model.anatomy import decoder_layers
from depthprune.model.surgery import remove_layers
from depthprune.pipeline.job import Job
from depthprune.pipeline.lent_rows import PER_ROW, lent_row, measured_as
from depthprune.pipeline.memory import give_back
from depthprune.selection import Plan


def evaluate(job: Job, digest: str) -> str:
    """One row a model; a call that was killed goes on with the next row."""
    partial = f"eval-{digest}.json"
    rows, key = job.folder.read_if_whole(partial, {}), measured_as(job)
    for name, (path, removed) in _models(job).items():
        if name not in rows:
            rows[name] = lent_row(job, name, key) or row_of(job, path, removed)
            job.folder.write(partial, rows)
            give_back()  # one model at a time
    job.folder.write(PER_ROW, {name: row.pop("per_row", []) for name, row in rows.items()})
    job.folder.write("eval.json", {"rows": rows, "measured_as": key})
    return f"{len(rows)} models on {', '.join(examples.name for examples in job.inputs.evals)}"


def row_of(job: Job, path: str | Path, removed: Sequence[int] = ()) -> dict[str, Any]:
    """One row of eval.json: a model's size and its results on every evaluation dataset; and its `per_row`."""
    model = job.load(path)
    if removed:
        remove_layers(model, removed)
    options = {"chat_template": job.inputs.chat_template, **job.recipe.evaluation.model_dump()}
    with measured() as cost:
        results = [
            result
            for examples in job.inputs.evals
            for result in evaluate_on(model, job.inputs.tokenizer, examples, **options)
        ]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "layers": len(decoder_layers(model)),
        "results": [result.to_dict() for result in results],
        **cost,
        "per_row": [_per_row(result) for result in results if result.rows is not None],
    }


def _per_row(result: Measurement) -> dict[str, Any]:
    assert result.rows is not None
    sums, counts = ([round(value, 6) for value in values] for values in result.rows)
    return {"dataset": result.dataset, "metric": result.metric, "sums": sums, "counts": counts}


def _models(job: Job) -> dict[str, tuple[str | Path, tuple[int, ...]]]:
    """The models of the table: a checkpoint, and layers of it to leave out.

    `pruned` is the bare cut; where a recovery changed weights of it, its checkpoint is `repaired`.
    """
    base = str(job.recipe.full)
    rows: dict[str, tuple[str | Path, tuple[int, ...]]] = {"base": (base, ())}
    if job.prunes and job.trains and job.recipe.baseline:
        rows["base+tuned"] = job.folder.artifact("baseline"), ()
    if job.prunes and job.folder.read("recovery.json")["changed_layers"]:
        rows["pruned"] = base, Plan.from_json(job.folder.read("plan.json")).removed
        rows["repaired"] = job.folder.artifact("prune"), ()
    elif job.prunes:
        rows["pruned"] = job.folder.artifact("prune"), ()
    if job.trains:
        rows["pruned+tuned" if job.prunes else "base+tuned"] = job.folder.artifact("train"), ()
    return rows
