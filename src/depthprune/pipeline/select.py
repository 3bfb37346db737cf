"""The selection stage: chooses the layers that go → plan.json."""

from depthprune.model.traits import pruned_config
from depthprune.pipeline.job import Job
from depthprune.recovery.base import Evidence
from depthprune.selection import ByRecovery, Plan


def select(job: Job, digest: str) -> str:
    """Chooses by the scores, or lets the recovery choose."""
    decides = job.recipe.recovery.decides
    plan = _decided(job) if decides else job.inputs.plan(job.folder.read("scores.json"))
    pruned_config(job.inputs.config, plan.removed)  # refuses what the family's config cannot say
    job.folder.write("plan.json", plan.to_json())
    removed = f"removes {len(plan.removed)} of {plan.num_layers} layers: {', '.join(map(str, plan.removed))}"
    return ". ".join([removed, *plan.notes])


def _decided(job: Job) -> Plan:
    """The plan of a recovery that chooses the layers itself, in the dtype that it will merge in."""
    selection = job.recipe.selection
    assert isinstance(selection, ByRecovery)
    model = job.load(str(job.recipe.model), job.dtype)
    return job.recipe.recovery.choose(
        model, Evidence(batches=job.inputs.batches), selection, job.inputs.sizes
    )
