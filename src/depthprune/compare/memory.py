"""How much memory a run takes, before it has run, and how much there is."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers, linear_weights, lm_head
from depthprune.model.memory import free_bytes
from depthprune.pipeline.estimate import adapter_bytes
from depthprune.pipeline.inputs import Inputs, load_inputs
from depthprune.recipe.recipe import Recipe
from depthprune.settings import LoraSettings, TrainerSettings
from depthprune.training import FineTuning, Partial
from depthprune.training.rows_at_once import NEVER_MORE, ROOM

PROCESS = 0.8e9
"""Bytes of Python and its libraries."""
SHARE = 0.9
"""Of what is free, that runs may take."""


def most_needed(recipes: Sequence[Recipe]) -> float:
    """Bytes of the largest of these runs, which have the model in common."""
    kinds = {recipe.digest("importance", "training", "calibration_samples"): recipe for recipe in recipes}
    found = []
    for recipe in kinds.values():
        with suppress(UserError):  # that run will say so itself
            found.append(needed_memory(load_inputs(recipe)))
    return max(found, default=PROCESS)


def needed_memory(inputs: Inputs) -> float:
    """Bytes of a run at most, on a CPU: a process, the model in float32, gradients or a training."""
    weights = 4 * inputs.sizes.total
    gradients = weights if inputs.recipe.importance.needs == "gradients" else 0
    return PROCESS + weights + max(gradients, _training(inputs)) + _activations(inputs)


def _training(inputs: Inputs) -> float:
    """Gradients and AdamW's two moments of what trains, in scoring or in tuning."""
    asked = [inputs.recipe.importance, inputs.recipe.training]
    found = [0.0]
    for one in asked:
        if isinstance(one, LoraSettings):
            found.append(4.0 * adapter_bytes(inputs, one))
        elif isinstance(one, Partial):
            found.append(12.0 * one.trained_parameters(inputs.skeleton))
        elif isinstance(one, FineTuning):
            found.append(12.0 * inputs.sizes.total)
    return max(found)


def _activations(inputs: Inputs) -> float:
    """Of a step of training, or of as many tokens that are only run, below `ROOM`; and of the head on top."""
    asked = inputs.recipe.calibration_samples
    tokens = asked.batch_size * inputs.max_length(asked.length)
    words, logits = next(lm_head(inputs.skeleton).parameters()).shape[0], 0
    for one in (inputs.recipe.importance, inputs.recipe.training):
        if isinstance(one, TrainerSettings):
            longest: int = max(map(len, inputs.encoded(one.max_length)["input_ids"]))
            tokens = max(tokens, one.per_device_train_batch_size * longest)
            logits = max(logits, 8 * words * one.per_device_train_batch_size * longest)
    widths = sum(
        sum(weight.parameter.shape[-2:])
        for layer in decoder_layers(inputs.skeleton)
        for weight in linear_weights(layer).values()
    )
    return min(ROOM, tokens * NEVER_MORE * widths) + logits


def free_memory() -> float:
    """Bytes that runs may take: of the machine, or of the container or job that this process is in."""
    return SHARE * min([free_bytes(torch.device("cpu")), *_left_of_limits()])


def _left_of_limits() -> Iterator[int]:
    """What the control groups of this process leave, in both of their versions."""
    mounted, groups = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, kinds, path = line.split(":", 2)
        if kinds not in ("", "memory"):
            continue
        names = ("limit_in_bytes", "usage_in_bytes") if kinds else ("max", "current")
        limit, used = (f"memory.{name}" for name in names)
        own = mounted / kinds / path.lstrip("/")
        for group in {own, *own.parents, mounted / kinds}:
            with suppress(OSError, ValueError):  # no such group, or no limit
                yield int((group / limit).read_text()) - int((group / used).read_text()) + _droppable(group)


def _droppable(group: Path) -> int:
    """Of what a group uses, what the system takes back at need: pages of files."""
    lines = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(lines.get("total_inactive_file", lines.get("inactive_file", 0)))
