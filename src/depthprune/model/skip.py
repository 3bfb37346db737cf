"""A shallower model without surgery: layers that are skipped for a while, and come back."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from depthprune.model.anatomy import decoder_layers
from depthprune.model.hooks import hidden_state, layer_input

Forms = dict[type[nn.Module], int | None]
"""What a class of layer returns: a tuple of this length, or None for a tensor."""


@contextmanager
def skipped(model: nn.Module, layers: Iterable[int], forms: Forms | None = None) -> Iterator[None]:
    """Inside the block these decoder layers pass their input on unchanged; no weight is copied or moved.

    The model then computes what it would without them. Their indices stay, their hooks still see them, and
    what the family's config could not say does not matter. Blocks may be nested. Not for generation with a
    cache.

    Args:
        forms: what is known of the layers' outputs, filled in as more is learnt. A form that is not known
            costs one call of a layer, so whoever enters many blocks keeps one dictionary for them all.
    """
    all_layers = decoder_layers(model)
    forms = {} if forms is None else forms
    chosen = [all_layers[i] for i in layers if not isinstance(all_layers[i].forward, _PassOn)]
    with ExitStack() as stack:
        for layer in chosen:
            stack.enter_context(computing(layer, _PassOn(layer.forward, type(layer), forms)))
        yield


@contextmanager
def computing(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside the block this is what the module computes; accelerate's hooks may have put another there."""
    before = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if before is not None:
            module.forward = before


def skipped_layers(model: nn.Module) -> list[int]:
    """The layers that a block of `skipped` leaves out just now, ascending."""
    return [i for i, layer in enumerate(decoder_layers(model)) if isinstance(layer.forward, _PassOn)]


def output_form(output: Any) -> int | None:
    """The form of a layer's output, as `Forms` has it."""
    return None if isinstance(output, torch.Tensor) else len(output)


class _PassOn:
    """In place of a layer's `forward`: returns its hidden states as `forward` would.

    Some families' layers return a tuple. Where `forms` does not tell, the first call of `forward` shows it.
    """

    def __init__(self, forward: Callable[..., Any], kind: type[nn.Module], forms: Forms) -> None:
        self.forward = forward
        self.kind = kind
        self.forms = forms

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        hidden = layer_input(args, kwargs)
        if self.kind not in self.forms:
            with torch.no_grad():
                # A copy, since some layers add to their input in place.
                first = (hidden.clone(), *args[1:]) if args else ()
                named = kwargs if args else {**kwargs, "hidden_states": hidden.clone()}
                output = self.forward(*first, **named)
            assert hidden_state(output).shape == hidden.shape
            self.forms[self.kind] = output_form(output)
        length = self.forms[self.kind]
        return hidden if length is None else (hidden, *[None] * (length - 1))
