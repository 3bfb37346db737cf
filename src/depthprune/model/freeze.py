"""All weights frozen for a while, as for scores that are read from gradients."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def all_frozen(model: nn.Module) -> Iterator[None]:
    """Inside the block the model is in eval mode and no weight takes a gradient; the block may let some.

    Afterwards every module's mode and every weight's `requires_grad` are what they were.
    """
    required = {name: weight.requires_grad for name, weight in model.named_parameters()}
    training = [module for module in model.modules() if module.training]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for name, weight in model.named_parameters():  # offloaded ones are others by now
            weight.requires_grad_(required[name])
        for module in training:
            module.training = True
