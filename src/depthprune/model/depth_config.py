"""What a config says about single layers, and how it reads once layers are gone."""

import copy
from collections.abc import Sequence

from transformers import PretrainedConfig

from depthprune.errors import UserError


def kept_layers(num_layers: int, layers: Sequence[int]) -> list[int]:
    """The original indices that remain; refuses layers that are not there, are named twice, or are all there are."""
    outside = [i for i in layers if not 0 <= i < num_layers]
    if outside:
        raise UserError(f"layer {outside[0]} is not there: the model has layers 0 to {num_layers - 1}")
    if len(set(layers)) != len(layers):
        twice = next(i for i in layers if list(layers).count(i) > 1)
        raise UserError(f"layer {twice} is named twice among the layers to remove")
    if len(layers) == num_layers:
        raise UserError(f"all {num_layers} layers would be removed: keep at least one")
    return [i for i in range(num_layers) if i not in set(layers)]


def pruned_config(config: PretrainedConfig, layers: Sequence[int]) -> PretrainedConfig:
    """A copy of the config for the model without `layers` (original indices)."""
    new = copy.deepcopy(config)
    text = new.get_text_config(decoder=True)
    depth = text.num_hidden_layers
    kept = kept_layers(depth, layers)
    for name in [
        name for name, value in vars(text).items() if isinstance(value, list) and len(value) == depth
    ]:
        if name in PER_LAYER_LISTS:
            setattr(text, name, [getattr(text, name)[i] for i in kept])
    text.num_hidden_layers = len(kept)
    return new


PER_LAYER_LISTS = ("layer_types", "no_rope_layers", "mlp_layer_types")
