"""The selection stage: chooses the layers that go → plan.json."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from depthprune.model.silence import silent_parameters
from depthprune.model.traits import pruned_config
from depthprune.pipeline.job import Job
from depthprune.pipeline.second_opinion import Measurements, guard_of, second_opinion
from depthprune.recovery.base import Evidence, Taken
from depthprune.selection import ByRecovery, Plan
from depthprune.selection.close_calls import close_calls
from depthprune.selection.guard import guard_notes, opinion_sentence, worse_notes
from depthprune.selection.pairs import spoken_silence

log = logging.getLogger("depthprune")


def select(job: Job, digest: str) -> str:
    """Chooses by the scores and the guard, or lets the recovery choose."""
    plan = (
        _decided(job, f"steps-{digest}.json")
        if isinstance(job.recipe.selection, ByRecovery)
        else _by_scores(job)
    )
    job.folder.write("plan.json", plan.to_json())
    removed = f"removes {len(plan.removed)} of {plan.num_layers} layers: {', '.join(map(str, plan.removed))}"
    taken = [f"layer {kept} takes the MLP of layer {gone}" for kept, gone in sorted(plan.mlp_from.items())]
    said = [", ".join([removed, *taken]), *plan.notes]
    return ". ".join(sentence.removesuffix(".") for sentence in said)


def _by_scores(job: Job) -> Plan:
    """The plan of the scores, but for the layers that the guard keeps, held against cheap controls."""
    found, measurements = job.folder.read("scores.json"), Measurements(job)
    guard = guard_of(measurements)
    plan = job.inputs.plan(found, guard.get("kept", ()))
    _check_config(job, plan)
    opinion = second_opinion(measurements, plan, guard.get("kept", ()))
    if guard:
        opinion["guard"] = {**guard, **_changed(job, found, plan)}
    notes = _notes(job, found, plan, opinion)
    log.info("%-8s %s", "select", opinion_sentence(opinion))
    return replace(plan, notes=(*plan.notes, *notes), opinion=opinion)


def _check_config(job: Job, plan: Plan) -> None:
    """Refuses what the family's config cannot say."""
    if plan.removed:
        pruned_config(job.inputs.config, plan.removed, mlp_from=plan.mlp_from)


def _changed(job: Job, found: dict[str, Any], plan: Plan) -> dict[str, list[int]]:
    """The layers that the guard spared, and those that went in their place."""
    if found["rounds"]:  # what would have followed them was never scored
        return {
            "spared": sorted({i for done in found["rounds"] for i in done.get("spared", ())}),
            "instead": [],
        }
    without = set(job.recipe.selection.plan(found, job.inputs.sizes).removed)
    return {"spared": sorted(without - set(plan.removed)), "instead": sorted(set(plan.removed) - without)}


def _notes(job: Job, found: dict[str, Any], plan: Plan, opinion: dict[str, Any]) -> list[str]:
    notes = [opinion_sentence(opinion)] if "left_out" in opinion else worse_notes(opinion)
    if "guard" in opinion:
        notes = [*guard_notes(opinion["guard"], plan.removed), *notes]
    if job.arithmetic.dtype == "bfloat16":
        notes += close_calls(found, plan.removed)
    return [*notes, _silent_note(job, plan)] if plan.silenced else notes


def _decided(job: Job, partial: str) -> Plan:
    """The plan of a recovery that chooses the layers itself, in the dtype that it will merge in.

    A call that was killed goes on after the last step in the file `partial`.

    It merges what it removes, so a bare cut would say nothing of it: no second opinion.
    """
    selection = job.recipe.selection
    assert isinstance(selection, ByRecovery)
    model = job.load(str(job.recipe.full), job.arithmetic.weights(job.dtype))

    def keep(steps: Sequence[dict[str, Any]], said: str) -> None:
        job.folder.write(partial, list(steps))
        log.info("%-8s step %d: %s", "select", len(steps), said)

    taken = Taken(job.folder.read_if_whole(partial, []), keep)
    evidence = Evidence(batches=job.inputs.batches, dtype=job.dtype, taken=taken)
    plan = job.recipe.recovery.choose(model, evidence, selection, job.inputs.sizes)
    _check_config(job, plan)
    return plan


def _silent_note(job: Job, plan: Plan) -> str:
    """What became of sublayers that went alone, and what they would save."""
    saved = silent_parameters(job.inputs.skeleton, plan.silenced, job.inputs.sides)
    return (
        f"{spoken_silence(plan.silenced)} are gone alone and stay as zeros: the checkpoint is as large as if "
        f"they were there, and as slow. An engine that leaves them out would save {saved:,} parameters "
        f"({saved / job.inputs.sizes.total:.1%}): `depthprune export --format nemotron-nas` writes that form."
    )
