"""Layers that become one: its weights are a linear combination of the weights of several original layers."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers, linear_weights
from depthprune.model.skip import skipped
from depthprune.selection import Plan

Parts = Mapping[int, float]
"""Original layer → its coefficient."""
WeightsOf = Callable[[nn.Module], Mapping[str, nn.Parameter]]
"""Which weights of a layer take part, by their names in it."""


def linears(layer: nn.Module) -> dict[str, nn.Parameter]:
    """The linear weights, stacked experts among them; no norm, bias or router."""
    return {name: weight.parameter for name, weight in linear_weights(layer).items()}


def all_weights(layer: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter of the layer."""
    return dict(layer.named_parameters())


@dataclass(frozen=True)
class Stack:
    """The layers of a model on their way to fewer: what each layer that is left is made of.

    Attributes:
        layers: layer that is left → its parts, in original indices, the deepest last.
    """

    depth: int
    layers: Mapping[int, Parts]

    @classmethod
    def whole(cls, depth: int) -> "Stack":
        """Every layer is itself."""
        return cls(depth, {i: {i: 1.0} for i in range(depth)})

    @property
    def left(self) -> list[int]:
        return sorted(self.layers)

    @property
    def removed(self) -> list[int]:
        return [i for i in range(self.depth) if i not in self.layers]

    @property
    def combined(self) -> dict[int, dict[int, float]]:
        """The layers that are no longer what they were."""
        return {
            kept: dict(sorted(parts.items())) for kept, parts in sorted(self.layers.items()) if len(parts) > 1
        }

    def combining(self, shares: Parts) -> "Stack":
        """The first of these layers becomes the sum of them all, each as it is now times its share."""
        into = min(shares)
        total: Counter[int] = Counter()
        for layer, share in shares.items():
            for part, coefficient in self.layers[layer].items():
                total[part] += share * coefficient  # type: ignore[assignment]
        left = {layer: parts for layer, parts in self.layers.items() if layer not in shares}
        return Stack(self.depth, {**left, into: dict(total)})

    def plan(self, search: Sequence[dict[str, Any]], notes: Sequence[str]) -> Plan:
        """The plan of a recovery that chose these layers."""
        combined = self.combined
        return Plan(
            self.depth,
            tuple(self.removed),
            selection="by-recovery",
            merged_into={part: kept for kept, parts in combined.items() for part in parts if part != kept},
            notes=tuple(notes),
            combined=combined,
            search=tuple(search),
        )


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


def refuse_unlike(model_type: str) -> UserError:
    """The error for a model in which no two neighbouring layers can be combined."""
    return UserError(
        f"{model_type} has no two neighbouring layers with the same parameters that may be merged: protect "
        "fewer layers, or choose a recovery that merges none"
    )
