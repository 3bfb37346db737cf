"""The pruning stage: repairs and cuts the model → the pruned checkpoint, recovery.json."""

from typing import Any

from depthprune.model.silence import silence
from depthprune.model.surgery import remove_layers
from depthprune.pipeline.job import Job
from depthprune.pipeline.prune_stored import prune_stored
from depthprune.recovery.base import Evidence
from depthprune.selection import Plan


def prune(job: Job, digest: str) -> str:
    """Runs the recovery, then removes the plan's layers: on files where that is enough, else in memory."""
    plan = Plan.from_json(job.folder.read("plan.json"))
    report, parameters = prune_stored(job, plan) or prune_loaded(job, plan)
    job.folder.write("recovery.json", {"method": job.recipe.recovery.method, **report})
    changed = ", ".join(map(str, report["changed_layers"]))
    repaired = f", changes layer {changed}" if changed else ""
    return f"leaves {len(plan.kept)} layers, {parameters:,} parameters{repaired}"


def prune_loaded(job: Job, plan: Plan) -> tuple[dict[str, Any], int]:
    """The recovery's report, and how many parameters are left; the whole model is in memory."""
    recovery: Any = job.recipe.recovery
    computes = job.arithmetic.weights(job.dtype) if recovery.needs_calibration else job.dtype
    model = job.load(str(job.recipe.full), computes)
    recovery.check(model)  # scoring may have loaded none
    batches = job.inputs.batches if recovery.needs_calibration else []
    report = recovery(model, plan, Evidence(job.folder.gradients, batches, job.dtype))
    if plan.silenced:
        silence(model, plan.silenced, job.inputs.sides)
    if plan.removed:
        remove_layers(model, plan.removed, plan.mlp_from)
    job.save(model, "prune")
    return report, sum(parameter.numel() for parameter in model.parameters())
