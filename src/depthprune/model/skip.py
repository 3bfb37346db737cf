"""A shallower model without surgery: layers that are skipped for a while, and come back."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from depthprune.model.anatomy import decoder_layers
from depthprune.model.hooks import hidden_state


@contextmanager
def skipped(model: nn.Module, layers: Iterable[int]) -> Iterator[None]:
    """Inside the block these decoder layers pass their input on unchanged; no weight is copied or moved.

    The model then computes what it would without them. Their indices stay, their hooks still see them, and
    what the family's config could not say does not matter. Not for generation with a cache.
    """
    all_layers = decoder_layers(model)
    forms: dict[type[nn.Module], int | None] = {}
    chosen = [all_layers[i] for i in layers]
    for layer in chosen:
        layer.forward = _identity(layer.forward, type(layer), forms)
    try:
        yield
    finally:
        for layer in chosen:
            del layer.forward


def _identity(
    forward: Callable[..., Any], kind: type[nn.Module], forms: dict[type[nn.Module], int | None]
) -> Callable[..., Any]:
    """Returns its hidden states as `forward` would: some families' layers return a tuple.

    Which of the two shows the first call of `forward`; `forms` remembers it for each class of layer, as the
    length of the tuple or None.
    """

    def pass_on(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        if kind not in forms:
            with torch.no_grad():
                # A copy, since some layers add to their input in place.
                first = (hidden.clone(), *args[1:]) if args else ()
                named = kwargs if args else {**kwargs, "hidden_states": hidden.clone()}
                output = forward(*first, **named)
            assert hidden_state(output).shape == hidden.shape
            forms[kind] = None if isinstance(output, torch.Tensor) else len(output)
        length = forms[kind]
        return hidden if length is None else (hidden, *[None] * (length - 1))

    return pass_on
