"""Layers that become one: its weights are a linear combination of the weights of several original layers."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers, linear_weights, unwrap
from depthprune.model.skip import skipped
from depthprune.recovery.stack import Parts, Stack

WeightsOf = Callable[[nn.Module], Mapping[str, nn.Parameter]]
"""Which weights of a layer take part, by their names in it."""


def linears(layer: nn.Module) -> dict[str, nn.Parameter]:
    """The linear weights, stacked experts among them; no norm, bias or router."""
    return {name: weight.parameter for name, weight in linear_weights(layer).items()}


def all_weights(layer: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter of the layer."""
    return dict(layer.named_parameters())


def kinds(model: nn.Module) -> list[tuple[Any, ...]]:
    """What each layer's parameters are called and how they are shaped: only equal ones can be combined.

    A layer that shares a tensor with another one is a kind of its own, since changing it would change both.
    """
    layers = decoder_layers(model)
    holders = Counter(id(parameter) for layer in layers for parameter in layer.parameters())
    found = []
    for i, layer in enumerate(layers):
        shapes = tuple((name, tuple(parameter.shape)) for name, parameter in layer.named_parameters())
        shared = any(holders[id(parameter)] > 1 for parameter in layer.parameters())
        found.append((i, shapes) if shared else (shapes,))
    return found


@torch.no_grad()
def combine(layers: nn.ModuleList, parts: Parts, weights_of: WeightsOf) -> dict[str, Tensor]:
    """Σ c_i W_i of each weight by its name, summed in float32 and rounded once to the weights' dtype."""
    sources = [(weights_of(layers[layer]), share) for layer, share in sorted(parts.items())]
    found = {}
    for name, parameter in sources[0][0].items():
        total = torch.zeros_like(parameter, dtype=torch.float32)
        for weights, share in sources:
            total.add_(weights[name].float(), alpha=share)
        found[name] = total.to(parameter.dtype)
    return found


@torch.no_grad()
def merge(model: nn.Module, combined: Mapping[int, Parts], weights_of: WeightsOf) -> None:
    """Gives each of these layers its combination, in place. No layer may be part of two of them."""
    layers = decoder_layers(model)
    for kept, parts in combined.items():
        targets = weights_of(layers[kept])
        for name, weight in combine(layers, parts, weights_of).items():
            targets[name].copy_(weight)


@contextmanager
def collapsed(model: nn.Module, stack: Stack, weights_of: WeightsOf) -> Iterator[None]:
    """Inside the block the model computes as the stack says; after it every tensor is the one it was."""
    layers = decoder_layers(model)
    with ExitStack() as undo:
        undo.enter_context(skipped(model, stack.removed))
        for kept, parts in stack.combined.items():
            targets = weights_of(layers[kept])
            for name, weight in combine(layers, parts, weights_of).items():
                # The tensor itself is put aside, so that nothing has to be computed to come back.
                undo.callback(setattr, targets[name], "data", targets[name].data)
                targets[name].data = weight
        yield


def refuse_unlike(model: nn.Module) -> UserError:
    """The error for a model in which no two neighbouring layers can be combined."""
    return UserError(
        f"{unwrap(model).config.model_type} has no two neighbouring layers with the same parameters that may "
        "be merged: protect fewer layers, or choose a recovery that merges none"
    )
