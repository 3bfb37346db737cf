"""Models whose weights lie in shards, a part of each in every process (FSDP2)."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from depthprune.distributed.processes import is_first

WRAPPED = "_checkpoint_wrapped_module."
"""What torch's activation checkpointing puts into names."""


def shards() -> bool:
    """Whether `accelerate launch` has been told to shard models."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def fsdp_computes_anew() -> bool:
    """Whether it has been told to have FSDP compute activations anew in the backward pass."""
    return shards() and os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "false").lower() == "true"


def uses_deepspeed() -> bool:
    """Whether it has been told to train with DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def deepspeed_shards() -> bool:
    """Whether DeepSpeed has been told to leave each process a part of the weights (ZeRO-3)."""
    if not uses_deepspeed():
        return False
    stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if (config := os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")) != "none":
        stage = json.loads(Path(config).read_text()).get("zero_optimization", {}).get("stage", stage)
    return str(stage) == "3"


def reduce_exactly(plugin: Any) -> None:
    """Has an FSDP plugin of accelerate's add up gradients in float32, as DDP does, and not in bfloat16."""
    if plugin.mixed_precision_policy is not None:
        policy = dataclasses.replace(plugin.mixed_precision_policy, reduce_dtype=torch.float32)
        plugin.mixed_precision_policy = policy


def lies_in_shards(model: nn.Module) -> bool:
    """Whether a model's weights do."""
    return any(isinstance(weight, DTensor) for weight in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """A tensor in one piece; of one in shards every process has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights that train, by name, whole and in the first process's memory; the others get none.

    Gathered one after the other: no process needs room for more than its largest tensor beside its shards.
    """
    found = {}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        tensor = whole(weight.detach())
        if is_first():
            found[name.replace(WRAPPED, "")] = tensor.cpu()
    return found


def put_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Gives a whole model the weights of `trained_weights`, in its own dtypes."""
    own: dict[str, Any] = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in weights.items():
            own[name].copy_(tensor)
