"""Attentions and MLPs that add nothing: zeros at their end, in a checkpoint of the same shape."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.model.anatomy import DOWN_PROJECTIONS, decoder_layers, linear_weights, unwrap
from depthprune.model.between import layer_streams
from depthprune.model.parts import ATTENTION_OUTPUTS
from depthprune.model.sublayers import Sides

MIXER_OUTPUTS = (*ATTENTION_OUTPUTS, "linear_attn.out_proj")
SIDES = ("attention", "mlp")


def silence(model: nn.Module, silenced: Mapping[int, Sequence[str]], sides: Sequence[Sides]) -> None:
    """Makes these sides of these layers add nothing, in place: weights and biases at their ends become zero.

    Raises `UserError` where a side adds something all the same; the model is then of no use.
    """
    for i, names in silenced.items():
        for name in names:
            for parameter in ends(model, i, name, sides):
                parameter.data.zero_()
    ids = torch.zeros(1, 2, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        streams = layer_streams(model, batch, sides)
    for i, names in silenced.items():
        before, middle, after = streams[i]
        for name, (one, other) in zip(SIDES, ((before, middle), (middle, after)), strict=True):
            if name in names and not torch.equal(one, other):
                kind = unwrap(model).config.model_type
                raise UserError(f"{kind}: the {name} of layer {i} adds something though its end is zero")


@contextmanager
def silent(model: nn.Module, sublayers: Sequence[int], sides: Sequence[Sides]) -> Iterator[None]:
    """Inside the block these sublayers (attention i is 2i, MLP i 2i + 1) add nothing."""
    kept: list[tuple[nn.Parameter, Tensor]] = []
    try:
        for sublayer in sublayers:
            for parameter in ends(model, sublayer // 2, SIDES[sublayer % 2], sides):
                kept.append((parameter, parameter.data))
                parameter.data = torch.zeros_like(parameter.data)
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


def ends(model: nn.Module, i: int, side: str, sides: Sequence[Sides]) -> list[nn.Parameter]:
    """The parameters without which a side of layer i adds nothing: its last linear's, a later norm's bias."""
    layer, own = decoder_layers(model)[i], sides[i]
    modules, endings = (own.attention, MIXER_OUTPUTS) if side == "attention" else (own.mlp, DOWN_PROJECTIONS)
    found = []
    for name, weight in linear_weights(layer).items():
        path = name.removesuffix(".weight")
        if path.partition(".")[0] in modules and f".{path}".endswith(tuple(f".{end}" for end in endings)):
            parent, _, own_name = path.rpartition(".")
            bias = (
                getattr(layer.get_submodule(path), "bias", None)
                if weight.experts is None
                else getattr(layer.get_submodule(parent), f"{own_name}_bias", None)
            )
            found += [weight.parameter] if bias is None else [weight.parameter, bias]
    if not found:
        kind = unwrap(model).config.model_type
        raise UserError(f"{kind}: the {side} of layer {i} has no output projection of a known name")
    after = own.attention_after if side == "attention" else own.mlp_after
    bias = getattr(layer.get_submodule(after), "bias", None) if after else None
    return found if bias is None else [*found, bias]


def silent_parameters(model: nn.Module, silenced: Mapping[int, Sequence[str]], sides: Sequence[Sides]) -> int:
    """How many parameters these sides hold, norms included."""
    found = 0
    for i, names in silenced.items():
        layer = decoder_layers(model)[i]
        for name in names:
            for module in sides[i].attention if name == "attention" else sides[i].mlp:
                found += sum(weight.numel() for weight in layer.get_submodule(module).parameters())
    return found
