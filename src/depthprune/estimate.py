"""What a run will do, cost and write, before it starts."""

import math
import shutil
from pathlib import Path
from typing import Any

from depthprune.errors import UserError
from depthprune.importance.igia import Igia
from depthprune.inputs import Inputs, load_inputs
from depthprune.inspection import remaining
from depthprune.model.anatomy import decoder_layers, linear_weights
from depthprune.model.skeleton import checkpoint_dtype
from depthprune.recipe import Recipe
from depthprune.selection import KeepAll
from depthprune.settings import LoraSettings, TrainerSettings
from depthprune.training import NoTraining


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
    if not isinstance(recipe.training, NoTraining):
        steps["training"] = training_steps(recipe.training, inputs)
        disk["tuned checkpoint"] = left["bytes"]
        largest = left
        if recipe.baseline:
            disk["baseline checkpoint"] = whole["bytes"]
            largest = whole
        disk["trainer checkpoints"] = _trainer_bytes(inputs, recipe.training, largest["parameters"])
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
        "disk": disk,
        "disk_needed": sum(disk.values()),
        "disk_free": shutil.disk_usage(_existing(output)).free,
    }


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


def _trainer_bytes(inputs: Inputs, settings: TrainerSettings, parameters: int) -> int:
    """Three checkpoints while one is rotated: float32 weights and AdamW's two moments."""
    trained = adapter_bytes(inputs, settings) if isinstance(settings, LoraSettings) else 4 * parameters
    return 3 * 3 * trained


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
