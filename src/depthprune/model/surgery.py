"""Removing decoder layers from a model in memory; its config and every layer index follow."""

from collections.abc import Sequence

from torch import nn

from depthprune.model.anatomy import decoder_layers, layers_path, unwrap
from depthprune.model.depth_config import kept_layers, pruned_config


def remove_layers(model: nn.Module, layers: Sequence[int]) -> nn.Module:
    """Removes the decoder layers with these original indices, in place, and returns the model.

    Raises UserError for layers that are not there, are named twice or are all there are, and where the family's
    config cannot say what would remain.
    """
    inner = unwrap(model)
    path, all_layers = layers_path(inner), decoder_layers(inner)
    kept = kept_layers(len(all_layers), layers)
    config = pruned_config(inner.config, layers)
    vars(inner.config).update(vars(config))
    for new, old in enumerate(kept):
        for module in all_layers[old].modules():
            if getattr(module, "layer_idx", None) is not None:
                module.layer_idx = new
    parent, _, name = path.rpartition(".")
    setattr(inner.get_submodule(parent), name, nn.ModuleList([all_layers[i] for i in kept]))
    return model
