"""What decoder layers read beside the hidden states, of other layers or of images: it must stay as it was."""

from collections.abc import Sequence

from torch import nn
from transformers import PretrainedConfig

from depthprune.model.depth_config import SOURCE_LAYERS, sub_configs, text_config

# Lists with an entry per layer: one that is "shared" uses what the last "full" one before it has chosen.
SHARED_CHOICES = ("indexer_types",)
# An attribute of a layer at which the model keeps a state that later ones read.
HANDS_ON = "is_block_boundary"


def side_input_fault(
    config: PretrainedConfig, kept: Sequence[int], layers: nn.ModuleList, multimodal: bool
) -> str | None:
    """Why the layers `kept` would read something else than before; None where they would not.

    Args:
        layers: all decoder layers, on the meta device.
        multimodal: whether they belong to a whole multimodal model, if the config does.
    """
    numbered = image_layers(config) if multimodal else 0
    if list(kept[:numbered]) != list(range(numbered)):
        return f"image features are added at its layers 0 to {numbered - 1} by their numbers"
    for layer, needed in sources(config).items():
        if layer in kept and (gone := needed - set(kept)):
            return f"layer {layer} uses what layer {min(gone)} computes beside its hidden states"
    for layer, module in enumerate(layers):
        if layer not in kept and any(getattr(part, HANDS_ON, False) for part in module.modules()):
            return f"later layers read the hidden states at layer {layer}"
    return None


def image_layers(config: PretrainedConfig) -> int:
    """How many of the first layers image features may be added at, by the layer's number."""
    count = 0
    for part in (config, *sub_configs(config).values()):
        targets = getattr(part, "spatial_target_layers", None) or ()
        pairs = getattr(part, "deepstack_layer_map", None) or ()
        numbers = [*targets, *(layer for _, layer in pairs)]
        count = max(
            count, len(getattr(part, "deepstack_visual_indexes", None) or ()), *(i + 1 for i in numbers)
        )
    return count


def sources(config: PretrainedConfig) -> dict[int, set[int]]:
    """Layer → the earlier ones whose keys and values, or whose choice of positions, it uses."""
    fields = vars(text_config(config))
    found: dict[int, set[int]] = {}
    for name in SOURCE_LAYERS:
        for layer, source in enumerate(fields.get(name) or ()):
            found.setdefault(layer, set()).update({source} - {layer})
    for name in SHARED_CHOICES:
        source = 0
        for layer, kind in enumerate(fields.get(name) or ()):
            source = source if kind == "shared" else layer
            found.setdefault(layer, set()).update({source} - {layer})
    return found
