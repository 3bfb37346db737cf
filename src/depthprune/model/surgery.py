"""Removing decoder layers from a model in memory; its config and every layer index follow."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers, layers_path, unwrap
from depthprune.model.depth_config import set_fields, text_config
from depthprune.model.sublayers import MlpFrom, exchange_mlps
from depthprune.model.traits import Shallower, shallower


def remove_layers(model: nn.Module, layers: Sequence[int], mlp_from: MlpFrom | None = None) -> nn.Module:
    """Removes the decoder layers with these original indices, in place, and returns the model.

    Args:
        mlp_from: kept layer → the removed layer behind it whose MLP it takes in place of its own: the MLP of
            the one and the attention of the other go, and all that lies between.

    Raises UserError for layers that are not there, are named twice or are all there are, and where the
    family's config cannot say what would remain; the model is then untouched.
    """
    inner = unwrap(model)
    _check_not_rescaled(inner)
    path, all_layers = layers_path(inner), decoder_layers(inner)
    change = shallower(inner.config, layers, model_class=type(inner), mlp_from=mlp_from)
    depth = len(all_layers)
    if mlp_from:
        exchange_mlps(inner, mlp_from, change.sides)
    parent, _, name = path.rpartition(".")
    setattr(inner.get_submodule(parent), name, nn.ModuleList([all_layers[i] for i in change.kept]))
    _follow(inner, change)
    for parameter_path, dimension in change.packed.items():
        _cut_packed(inner, parameter_path, dimension, depth, change.kept)
    return model


def _check_not_rescaled(model: PreTrainedModel) -> None:
    """Raises UserError for RWKV, which divides its weights in place as it runs, by their layers' numbers."""
    every = getattr(model.config, "rescale_every", 0)
    if every and any(hasattr(module, "layers_are_rescaled") for module in model.modules()):
        kind = model.config.model_type
        raise UserError(
            f"{kind} rescales its weights as it runs: set rescale_every to 0 in its config.json, "
            "or prune its files"
        )


def _follow(model: PreTrainedModel, change: Shallower) -> None:
    """Writes the new config fields wherever the config is held, and what modules once took from it."""
    text_class = type(text_config(model.config))
    configs = {
        id(config): config for module in model.modules() for config in [getattr(module, "config", None)]
    }
    configs[id(model.config)] = model.config
    texts = {id(text): text for text in map(_text_or_none, configs.values()) if type(text) is text_class}
    for text in texts.values():
        set_fields(text, change.fields)
    for path, attributes in change.attributes.items():
        for name, value in attributes.items():
            setattr(model.get_submodule(path), name, value)


def _text_or_none(config: object) -> PretrainedConfig | None:
    return text_config(config) if isinstance(config, PretrainedConfig) else None


def cut_packed(tensor: torch.Tensor, dimension: int, depth: int, kept: Sequence[int]) -> torch.Tensor:
    """Keeps the parts of the kept layers in a tensor that holds all layers' parts along one dimension."""
    parts = tensor.unflatten(dimension, (depth, -1))
    return parts.index_select(dimension, torch.tensor(kept, device=tensor.device)).flatten(
        dimension, dimension + 1
    )


def _cut_packed(model: nn.Module, path: str, dimension: int, depth: int, kept: Sequence[int]) -> None:
    module_path, _, name = path.rpartition(".")
    module = model.get_submodule(module_path)
    tensor = cut_packed(getattr(module, name).data, dimension, depth, kept)
    if name in module._parameters:
        setattr(module, name, nn.Parameter(tensor, requires_grad=getattr(module, name).requires_grad))
    else:
        setattr(module, name, tensor)
