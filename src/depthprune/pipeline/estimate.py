"""What a run will do, cost and write, before it starts."""

import math
import shutil
from pathlib import Path
from typing import Any

from depthprune.errors import UserError
from depthprune.importance.igia import Igia
from depthprune.model.anatomy import decoder_layers, linear_weights, parameters_per_layer
from depthprune.model.depth_config import text_config
from depthprune.model.skeleton import checkpoint_dtype
from depthprune.pipeline.inputs import Inputs, load_inputs
from depthprune.pipeline.inspection import counts, remaining
from depthprune.recipe.recipe import Recipe
from depthprune.selection import KeepAll
from depthprune.settings import LoraSettings, TrainerSettings
from depthprune.training import FineTuning, Partial
from depthprune.training.learned import learned_tokens

JSON_BYTES = 16
"""Of a token in self-data.jsonl: its id, its mask and its text."""


def estimate(recipe: Recipe, output: Path) -> dict[str, Any]:
    """The layers, parameters, steps and bytes of a run; loads and checks everything but the weights."""
    return estimate_inputs(load_inputs(recipe), output)


def estimate_inputs(inputs: Inputs, output: Path) -> dict[str, Any]:
    """As `estimate`, for loaded inputs. Which layers go is not known yet: any of that number is taken."""
    recipe = inputs.recipe
    dtype = checkpoint_dtype(inputs.config)
    removed = () if isinstance(recipe.selection, KeepAll) else inputs.rehearsal().removed
    whole, left = remaining(inputs.skeleton, (), dtype), remaining(inputs.skeleton, removed, dtype)
    disk = {"pruned checkpoint": left["bytes"] if removed else 0}
    steps = {}
    if isinstance(recipe.importance, Igia) and removed:
        steps["scoring"] = min(recipe.importance.steps, training_steps(recipe.importance, inputs))
        if recipe.keep_gradients or recipe.recovery.needs_gradients:
            disk["gradients"] = steps["scoring"] * adapter_bytes(inputs, recipe.importance)
    if isinstance(recipe.training, FineTuning):
        steps["training"] = training_steps(recipe.training, inputs)
        disk |= _training_disk(inputs, recipe.training, left, whole)
    return {
        "model": recipe.model,
        "num_layers": inputs.num_layers,
        "num_removed": len(removed),
        "remaining": left,
        "rows": {
            "train": len(inputs.train.rows) if inputs.train else 0,
            **{examples.name: len(examples.rows) for examples in inputs.evals},
        },
        "steps": steps,
        "memory": _memory(inputs),
        "recovery": recipe.recovery.estimate(inputs.skeleton, _calibration_tokens(inputs), len(removed))
        if removed
        else {},
        "disk": disk,
        "disk_needed": sum(disk.values()),
        "disk_free": free_disk(output),
    }


def _memory(inputs: Inputs) -> dict[str, int]:
    """The bytes that scoring holds: all weights, or with `device_map=disk` one layer, what is no layer, and
    the calibration samples' hidden states. With `auto` it depends on what is free: nothing is said."""
    recipe, dtype = inputs.recipe, checkpoint_dtype(inputs.config)
    size = 4 if recipe.arithmetic == "float32" else dtype.itemsize
    layers, (total, _) = parameters_per_layer(inputs.skeleton), counts(inputs.skeleton)
    if recipe.device_map is None:
        return {"weights": size * total}
    if recipe.device_map == "auto":
        return {}
    kept = 1 + inputs.num_layers * (recipe.importance.needs == "gradients")  # what enters each layer
    states = size * kept * _calibration_tokens(inputs) * text_config(inputs.config).hidden_size
    return {"weights": size * (total - sum(layers) + max(layers)), "hidden states": states}


def _calibration_tokens(inputs: Inputs) -> int:
    """At most: samples may be shorter."""
    return inputs.recipe.calibration_samples.samples * inputs.recipe.calibration_samples.length


def check_disk(inputs: Inputs, output: Path) -> None:
    """Raises `UserError` where the run would not fit on the disk."""
    found = estimate_inputs(inputs, output)
    if found["disk_needed"] > found["disk_free"]:
        raise UserError(
            f"{output}: the run needs about {found['disk_needed'] / 1e9:.1f} GB and "
            f"{found['disk_free'] / 1e9:.1f} GB are free there: free some, or name another disk with --output"
        )


def training_steps(settings: TrainerSettings, inputs: Inputs) -> int:
    """Optimizer steps of one process."""
    if settings.max_steps > 0:
        return settings.max_steps
    batches = math.ceil(len(inputs.encoded(settings.max_length)) / settings.per_device_train_batch_size)
    per_epoch = max(1, math.ceil(batches / settings.gradient_accumulation_steps))
    return math.ceil(per_epoch * settings.num_train_epochs)


def adapter_bytes(inputs: Inputs, settings: LoraSettings) -> int:
    """float32 bytes of one LoRA adapter, or of its gradients: r(d_in + d_out) for each linear."""
    elements = 0
    for layer in decoder_layers(inputs.skeleton):
        for weight in linear_weights(layer).values():
            elements += (weight.experts or 1) * sum(weight.parameter.shape[-2:])
    return 4 * settings.lora_r * elements


def _training_disk(
    inputs: Inputs, settings: FineTuning, left: dict[str, Any], whole: dict[str, Any]
) -> dict[str, int]:
    disk = {"tuned checkpoint": left["bytes"]}
    largest = left
    if inputs.recipe.baseline:
        disk["baseline checkpoint"] = whole["bytes"]
        largest = whole
    disk["trainer checkpoints"] = _trainer_bytes(inputs, settings, largest["parameters"])
    if settings.data == "self":
        disk["answers"] = JSON_BYTES * _learned_tokens(inputs, settings)
    if settings.loss == "distill":
        # An id and a log-probability, four bytes each; one more log-probability for all other tokens.
        disk["teacher"] = (8 * settings.distill.top_k + 4) * _learned_tokens(inputs, settings)
    return disk


def _learned_tokens(inputs: Inputs, settings: FineTuning) -> int:
    """Of an epoch; the model's own answers are taken for as long as they may be."""
    if settings.data == "self":
        assert inputs.train is not None
        return settings.self_data.max_new_tokens * len(inputs.train.rows)
    return sum(learned_tokens(row) for row in inputs.encoded(settings.max_length))


def _trainer_bytes(inputs: Inputs, settings: FineTuning, parameters: int) -> int:
    """Three checkpoints while one is rotated: float32 weights, AdamW's two moments of those that train."""
    if isinstance(settings, LoraSettings):
        return 3 * 3 * adapter_bytes(inputs, settings)
    trained = settings.trained_parameters(inputs.skeleton) if isinstance(settings, Partial) else parameters
    return 3 * 4 * (parameters + 2 * trained)


def free_disk(path: Path) -> int:
    """The bytes that are free where `path` is, or will be."""
    return shutil.disk_usage(_existing(path)).free


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
