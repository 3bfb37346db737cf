"""The guard and the second opinion: what each layer, the plan and cheap controls cost → guard.json."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

from depthprune.cost import measured
from depthprune.data.calibration import first_samples, some_rows
from depthprune.distributed.processes import first_does
from depthprune.errors import UserError
from depthprune.evaluation.measurement import ratio_and_stderr
from depthprune.importance.block_influence import BlockInfluence
from depthprune.importance.cut_loss import cut_losses
from depthprune.importance.loss import Loss
from depthprune.importance.masked import MaskedForward
from depthprune.model.resume import needs_neighbours
from depthprune.model.traits import pruned_config
from depthprune.pipeline.digests import hash_of
from depthprune.pipeline.fingerprint import fingerprint, model_fingerprint
from depthprune.pipeline.inputs import Inputs
from depthprune.pipeline.job import Job
from depthprune.pipeline.memory import give_back
from depthprune.recovery.activations import mean_loss
from depthprune.selection import ByScores, Contiguous, OneShot, Plan
from depthprune.selection.guard import MOST_NATS, affordable, perplexity, vital_layers
from depthprune.selection.pairs import Cuts
from depthprune.settings import TrainerSettings

ARTIFACT = "guard.json"
SAMPLES = 32
"""Of the second opinion: a pass each for the whole model, the plan and the controls."""
GUARD_SAMPLES = 8
"""Of them, those that the model is run on without each layer."""
TIMES, ERRORS = 1.05, 2.0
"""A control is clearly better where the plan's perplexity is so many times its own, and the difference of
their losses so many times its standard error."""

Found = TypeVar("Found")
Samples = list[list[float]]
"""Of each sample its loss in nats, summed over its tokens, and their number."""


class Measurements:
    """What the guard and the second opinion measure, each once: a killed call goes on from guard.json.

    Every token of the samples counts, prompts too. The model is loaded where something is not known yet.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        key = key_of(job)
        found: dict[str, Any] = job.folder.read_if_whole(ARTIFACT, {})
        self._found: dict[str, Any] = (
            found if found.get("key") == key else {"key": key, "seconds": 0.0, "cuts": {}}
        )

    @cached_property
    def left_out(self) -> str | None:
        """Why nothing is measured; None where it can be."""
        if needs_neighbours(self.job.inputs.config):
            return f"layers of {self.job.inputs.config.model_type} use what others computed"
        if not self.batches:
            return "there are no calibration or training data to measure on"
        try:
            if self.mean() >= MOST_NATS:
                return "the loss of the whole model is not finite"
            self.block_influence()
            self.cut((0,))
        except OSError:  # the disk's, not the model's
            raise
        except Exception as problem:  # a family that cannot run without a layer ends no run that would go on
            return f"the model does not run without a layer ({type(problem).__name__})"
        return None

    @cached_property
    def batches(self) -> list[dict[str, Any]]:
        return _samples(self.job.inputs)

    @cached_property
    def _model(self) -> Any:
        return self.job.load(str(self.job.recipe.model))

    def cut(self, removed: Sequence[int]) -> Samples:
        """Each sample's loss and tokens, of the model without these layers."""
        name = ",".join(map(str, removed))
        return self._once(
            self._found["cuts"],
            name,
            lambda: _finite(cut_losses(self._model, self.batches, removed).tolist()),
        )

    def mean(self, removed: Sequence[int] = ()) -> float:
        """The loss a token without these layers."""
        return ratio_and_stderr(*_columns(self.cut(removed)))[0]

    def without_each_layer(self) -> tuple[float, list[float]]:
        """The loss a token of the whole model, and without each layer, [L]; of scores where they are that."""
        metric = self.job.recipe.importance
        if isinstance(metric, MaskedForward):
            scores = self.job.folder.read("scores.json")["scores"]
            losses = scores if isinstance(metric, Loss) else [math.log(score) for score in scores]
            batches = self.job.inputs.batches
            return self._once(self._found, "whole", lambda: mean_loss(self._model, batches)), losses
        few = first_samples(self.batches, GUARD_SAMPLES)
        unlabelled = [{key: batch[key] for key in ("input_ids", "attention_mask")} for batch in few]
        losses = self._once(
            self._found,
            "without",
            lambda: Loss().losses(self._model, unlabelled).nan_to_num(MOST_NATS, MOST_NATS).tolist(),
        )
        return ratio_and_stderr(*_columns(self.cut(())[:GUARD_SAMPLES]))[0], losses

    def block_influence(self) -> list[float]:
        return self._once(
            self._found, "block_influence", lambda: BlockInfluence()(self._model, self.batches).tolist()
        )

    def _once(self, where: dict[str, Any], name: str, measure: Callable[[], Found]) -> Found:
        if name not in where:
            with measured() as cost:
                where[name] = measure()
            self._found["seconds"] = round(self._found["seconds"] + cost["seconds"], 3)
            self.job.folder.write(ARTIFACT, self._found)
        return where[name]


def guard_of(measurements: Measurements) -> dict[str, Any]:
    """`factor`, the `vital` layers, and those of them that are `kept`; empty where there is no guard.

    A metric that leaves out each layer ranks the vital ones highest itself: of single layers it needs none.
    """
    recipe = measurements.job.recipe
    selection = recipe.selection
    if not isinstance(selection, ByScores) or selection.guard == "none":
        return {}
    if isinstance(selection, Cuts) and selection.in_sublayers:  # less than a layer goes at once
        return {}
    if isinstance(recipe.importance, MaskedForward) and not isinstance(selection, Contiguous):
        return {}
    if measurements.left_out:
        return {}
    whole, without = measurements.without_each_layer()
    vital = vital_layers(without, whole, selection.guard)
    kept = affordable(selection, vital, measurements.job.inputs.sizes)
    return {
        "factor": selection.guard,
        "vital": {str(layer): rise for layer, rise in vital.items()},
        "kept": kept,
    }


def guarded(job: Job) -> list[int]:
    """The layers that the rounds of an iterative selection keep, in every process that scores."""
    found = first_does(lambda: guard_of(Measurements(job)).get("kept", []))
    give_back()  # scoring loads a model of its own
    return found


def second_opinion(measurements: Measurements, plan: Plan, kept: Sequence[int]) -> dict[str, Any]:
    """The perplexity of the whole model, of the plan's bare cut, and of cheap controls of its size."""
    if plan.mlp_from or plan.silenced:
        return {"left_out": "the plan takes parts of layers, and they measure whole ones"}
    if reason := measurements.left_out:
        return {"left_out": reason}
    cut = measurements.cut(plan.removed)
    controls = []
    for name, removed in _controls(measurements, len(plan.removed), kept).items():
        if removed == plan.removed or not _can_be_written(measurements.job, removed):
            continue
        found = {"name": name, "removed": list(removed), "perplexity": perplexity(measurements.mean(removed))}
        better = _clearly_better(measurements.cut(removed), cut)
        controls.append({**found, "clearly_better": better})
    return {
        "samples": len(cut),
        "whole": perplexity(measurements.mean()),
        "bare_cut": perplexity(measurements.mean(plan.removed)),
        "controls": controls,
    }


def _controls(measurements: Measurements, count: int, kept: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """As many layers by block influence, and the last ones; protected layers and `kept` stay there too."""
    sizes = measurements.job.inputs.sizes
    protect = (*getattr(measurements.job.recipe.selection, "protect", ()), *kept)
    control = OneShot(num_removed=count, protect=protect)
    scores = {
        "block influence": measurements.block_influence(),
        "the last ones": [-float(i) for i in range(sizes.num_layers)],
    }
    return {
        name: control.plan({"metric": name, "scores": values}, sizes).removed
        for name, values in scores.items()
    }


def _can_be_written(job: Job, removed: Sequence[int]) -> bool:
    """Whether the family's config could say it: else it is no choice that the user has."""
    try:
        pruned_config(job.inputs.config, removed)
    except UserError:
        return False
    return True


def _clearly_better(control: Samples, plan: Samples) -> bool:
    """Sample by sample on the same text, so that what is hard about the text does not count."""
    more = [cut[0] - other[0] for cut, other in zip(plan, control, strict=True)]
    difference, error = ratio_and_stderr(more, [tokens for _, tokens in plan])
    return difference > math.log(TIMES) and difference > ERRORS * (error or 0.0)


def _samples(inputs: Inputs) -> list[dict[str, Any]]:
    """A few calibration samples, or else training rows; none where there are none."""
    wanted, recipe = inputs.recipe.calibration_samples, inputs.recipe
    if inputs.calibration is not None:
        return first_samples(inputs.batches, SAMPLES)
    if inputs.train is None:
        return []
    lengths = [
        part.max_length for part in (recipe.training, recipe.importance) if isinstance(part, TrainerSettings)
    ]
    try:
        rows = inputs.encoded(max(lengths, default=wanted.length))
    except UserError:  # nothing else reads these rows: what is wrong with them ends no run
        return []
    return some_rows(
        rows, inputs.tokenizer, SAMPLES, inputs.max_length(wanted.length), wanted.batch_size, recipe.seed
    )


def key_of(job: Job) -> str:
    """A hash of all that the measurements depend on."""
    recipe = job.recipe
    source = recipe.calibration or recipe.train
    keys = ("seed", "trust_remote_code", "calibration_samples", "importance", "training")
    parts = [
        model_fingerprint(str(recipe.model)),
        source and fingerprint(source),
        recipe.chat_template and fingerprint(recipe.chat_template),
        bool(recipe.eval),
        recipe.digest(*keys),
        job.arithmetic.dtype,
    ]
    return hash_of(*parts)


def _columns(samples: Samples) -> tuple[list[float], list[float]]:
    return [loss for loss, _ in samples], [tokens for _, tokens in samples]


def _finite(samples: Samples) -> Samples:
    """A loss that is no number counts as the largest one."""
    return [[loss if math.isfinite(loss) else MOST_NATS * tokens, tokens] for loss, tokens in samples]
