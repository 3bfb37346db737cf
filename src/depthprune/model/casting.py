"""Casting a model to another dtype as loading it in that dtype would."""

import copy
import re
from collections.abc import Callable

import torch
from transformers import PreTrainedModel


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Casts in place, each tensor to what loading the model in `dtype` gives it, and returns the model.

    `model.to(dtype)` also rounds buffers that no file holds and that loading computes in float32, such as
    rotary frequencies: the model in memory then differs from its own files, by up to a hundredth of the
    logits in bfloat16. It rounds as well what a family keeps in float32 whatever the rest is in, as routers.
    """
    loaded = _loaded_dtype(model, dtype)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(loaded(name))
    for name, buffer in list(model.named_buffers()):
        if buffer.is_floating_point():
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, buffer.to(loaded(name)))
    return model


def _loaded_dtype(model: PreTrainedModel, dtype: torch.dtype) -> Callable[[str], torch.dtype]:
    """A function that says in which dtype a tensor of this name is after loading the model in `dtype`."""
    with torch.device("meta"):
        made = type(model)._from_config(copy.deepcopy(model.config), dtype=dtype)
    saved = model.state_dict().keys()
    computed = {name: buffer.dtype for name, buffer in made.named_buffers() if name not in saved}
    plan = model._get_dtype_plan(dtype)  # pattern → float32; there is no public way to ask
    patterns = [(re.compile(pattern.replace("*", ".*")), kept) for pattern, kept in plan.items()]

    def of(name: str) -> torch.dtype:
        kept = (kept for pattern, kept in patterns if pattern.search(name))
        return computed[name] if name in computed else next(kept, dtype)

    return of
