"""The selection stage: chooses the layers that go → plan.json."""

from depthprune.model.silence import silent_parameters
from depthprune.model.traits import pruned_config
from depthprune.pipeline.job import Job
from depthprune.recovery.base import Evidence
from depthprune.selection import ByRecovery, Plan
from depthprune.selection.close_calls import close_calls
from depthprune.selection.pairs import spoken_silence


def select(job: Job, digest: str) -> str:
    """Chooses by the scores, or lets the recovery choose."""
    decides = isinstance(job.recipe.selection, ByRecovery)
    plan = _decided(job) if decides else job.inputs.plan(job.folder.read("scores.json"))
    # Refuses what the family's config cannot say.
    if plan.removed:
        pruned_config(job.inputs.config, plan.removed, mlp_from=plan.mlp_from)
    if job.arithmetic.dtype == "bfloat16" and not decides:
        plan = plan.merging(plan.merged_into, close_calls(job.folder.read("scores.json"), plan.removed))
    if plan.silenced:
        plan = plan.merging(plan.merged_into, [_silent_note(job, plan)])
    job.folder.write("plan.json", plan.to_json())
    removed = f"removes {len(plan.removed)} of {plan.num_layers} layers: {', '.join(map(str, plan.removed))}"
    taken = [f"layer {kept} takes the MLP of layer {gone}" for kept, gone in sorted(plan.mlp_from.items())]
    return ". ".join([", ".join([removed, *taken]) if taken else removed, *plan.notes])


def _decided(job: Job) -> Plan:
    """The plan of a recovery that chooses the layers itself, in the dtype that it will merge in."""
    selection = job.recipe.selection
    assert isinstance(selection, ByRecovery)
    model = job.load(str(job.recipe.model), job.arithmetic.weights(job.dtype))
    return job.recipe.recovery.choose(
        model, Evidence(batches=job.inputs.batches), selection, job.inputs.sizes
    )


def _silent_note(job: Job, plan: Plan) -> str:
    """What became of sublayers that went alone, and what they would save."""
    saved = silent_parameters(job.inputs.skeleton, plan.silenced, job.inputs.sides)
    return (
        f"{spoken_silence(plan.silenced)} are gone alone and stay as zeros: the checkpoint is as large as if "
        f"they were there, and as slow. An engine that leaves them out would save {saved:,} parameters "
        f"({saved / job.inputs.sizes.total:.1%}): `depthprune export --format nemotron-nas` writes that form."
    )
