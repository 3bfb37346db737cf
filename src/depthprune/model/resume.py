"""The model without one layer, for each of its layers; what the layers before it computed is kept."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.utils import ModelOutput

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder, decoder_layers, unwrap
from depthprune.model.depth_config import text_config
from depthprune.model.hooks import layer_input
from depthprune.model.silence import silent
from depthprune.model.skip import Forms, output_form, skipped, skipped_layers
from depthprune.model.sublayers import Sides, recomposed

# Families whose layers hand on more than hidden states: the tokens to attend to, a router's state.
HAND_ON_MORE = ("glm_moe_dsa", "glm5_next_text", "hy_v4", "mistral_large4_text", "zaya")


def without_each_layer(model: nn.Module, batch: Mapping[str, Tensor]) -> Iterator[tuple[int, ModelOutput]]:
    """Runs the model without layer i, for each layer i that is not skipped already, the deepest first.

    Yields i and what the decoder returns; its `last_hidden_state` is what the head reads, [B, T, d]. The pass
    without the deepest layer keeps what enters every layer; the pass without layer i begins behind it. For m
    layers that makes (m − 1)(m + 2)/2 layer passes in place of m(m − 1). Keeps m hidden states of one batch.

    The family's own forward pass is run each time, so that masks and positions are its own; `labels` are left
    out. Use within `torch.no_grad()`. Raises `UserError` for a family whose layers need more of each other
    than hidden states.
    """
    for i, _, output in _resumed(model, batch, ()):
        yield i, output


def without_each_pair(
    model: nn.Module, batch: Mapping[str, Tensor], sides: Sequence[Sides]
) -> Iterator[tuple[int, bool, ModelOutput]]:
    """As `without_each_layer`, and also without layer i's MLP and the next layer's attention.

    Yields i, whether that is what is left out, and what the decoder returns. The model may be `recomposed`.
    For m layers (m − 1)(m + 2)/2 + m(m − 1)/2 layer passes.
    """
    return _resumed(model, batch, sides)


def without_each_sublayer(
    model: nn.Module, batch: Mapping[str, Tensor], gone: Sequence[int], sides: Sequence[Sides]
) -> Iterator[tuple[int, ModelOutput]]:
    """Runs the model without the sublayers `gone`, and without one more, for each that is there.

    Yields the sublayer (attention i is 2i, MLP i 2i + 1) and what the decoder returns. What enters each layer
    is kept, and the pass without one of its sublayers begins there.
    """
    _check_layers_stand_alone(model)
    layers = decoder_layers(model)
    forms: Forms = {}
    entering: dict[int, Tensor] = {}
    every = list(range(len(layers)))
    with silent(model, gone, sides):
        with _keeping_inputs(layers, [*every, len(layers)], entering, forms):
            _decode(model, batch)
        for sublayer in reversed(range(2 * len(layers))):
            i = sublayer // 2
            if sublayer in gone:
                continue
            with (
                silent(model, [sublayer], sides),
                skipped(model, range(i), forms),
                replaced_input(layers[i], entering[i].clone()),
            ):
                output = _decode(model, batch)
            yield sublayer, output


def _resumed(
    model: nn.Module, batch: Mapping[str, Tensor], sides: Sequence[Sides]
) -> Iterator[tuple[int, bool, ModelOutput]]:
    _check_layers_stand_alone(model)
    layers = decoder_layers(model)
    gone = set(skipped_layers(model))
    there = [i for i in range(len(layers)) if i not in gone]
    forms: Forms = {}
    entering: dict[int, Tensor] = {}
    with skipped(model, there[-1:], forms), _keeping_inputs(layers, there, entering, forms):
        output = _decode(model, batch)
    yield there[-1], False, output
    for i, following in reversed(list(pairwise(there))):
        if sides:
            with (
                recomposed(model, {i: following}, sides),
                skipped(model, [*range(i), following], forms),
                replaced_input(layers[i], entering[i].clone()),
            ):
                output = _decode(model, batch)
            yield i, True, output
        with skipped(model, range(i + 1), forms), replaced_input(layers[i], entering.pop(i)):
            output = _decode(model, batch)
        yield i, False, output


def needs_neighbours(config: PretrainedConfig) -> bool:
    """Whether layers of such a model use more of each other than hidden states."""
    text = text_config(config)
    return text.model_type in HAND_ON_MORE or any(getattr(text, "kv_sharing_modes", ()))


def _check_layers_stand_alone(model: nn.Module) -> None:
    if needs_neighbours(unwrap(model).config):
        text = text_config(unwrap(model).config)
        raise UserError(
            f"{text.model_type}: layers of this model use keys, values or indices that others computed, so "
            "it does not run without each of them: choose another metric, such as block-influence"
        )


def _decode(model: nn.Module, batch: Mapping[str, Tensor]) -> ModelOutput:
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    return decoder(model)(**inputs, use_cache=False)


@contextmanager
def _keeping_inputs(
    layers: nn.ModuleList, there: list[int], entering: dict[int, Tensor], forms: Forms
) -> Iterator[None]:
    """Fills `entering` with what the layers `there` read, and `forms` with what they return."""

    def enter(i: int, args: tuple, kwargs: dict) -> None:
        # A copy, since some layers add to their input in place.
        entering[i] = layer_input(args, kwargs).clone()

    def leave(layer: nn.Module, args: Any, output: Any) -> None:
        forms.setdefault(type(layer), output_form(output))

    with ExitStack() as stack:
        for i in there[:-1]:
            before = layers[i].register_forward_pre_hook(
                lambda _, args, kwargs, i=i: enter(i, args, kwargs), with_kwargs=True
            )
            stack.callback(before.remove)
            stack.callback(layers[i].register_forward_hook(leave).remove)
        yield


@contextmanager
def replaced_input(layer: nn.Module, hidden: Tensor) -> Iterator[None]:
    """Inside the block the layer reads these hidden states, whatever is handed to it."""

    def replace(_: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})

    handle = layer.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
