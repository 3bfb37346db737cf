"""The weights of the decoder layers as they lie in a checkpoint's files, without loading the model."""

import math
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor, nn

from depthprune.model.anatomy import decoder_layers, layers_path, parameters_per_layer
from depthprune.model.config_file import local_folder
from depthprune.model.loading import explained
from depthprune.model.moves import stored_prefix
from depthprune.model.shards import INDEX, read_shards

PLAIN_DTYPES = ("F64", "F32", "F16", "BF16")


def stored_weights(path_or_id: str | Path, skeleton: nn.Module) -> Iterator[tuple[int, Tensor]] | None:
    """(layer, weight) for every parameter of the decoder layers, read one at a time, shard by shard.

    Experts that the model stacks may come one by one. None where the files do not hold the layers' parameters
    as plain numbers, element for element: quantised weights, weights shared by several layers. The model then
    has to be loaded.

    Args:
        path_or_id: a model folder, or a hub id, whose files are downloaded where they are not there yet.
        skeleton: the model on the meta device.
    """
    folder = local_folder(path_or_id) or _download(str(path_or_id))
    shards = read_shards(folder)
    layers = decoder_layers(skeleton)
    prefix = stored_prefix(shards, layers_path(skeleton), len(layers), folder)
    places: dict[Path, list[tuple[int, str]]] = {}
    elements = [0] * len(layers)
    for shard in shards:
        for name, tensor in sorted(shard.tensors.items(), key=lambda item: item[1]["data_offsets"]):
            layer = _layer_of(name, prefix, layers)
            if layer is None:
                continue
            if tensor["dtype"] not in PLAIN_DTYPES:
                return None
            places.setdefault(shard.path, []).append((layer, name))
            elements[layer] += math.prod(tensor["shape"])
    return _read(places) if elements == parameters_per_layer(skeleton) else None


def _layer_of(name: str, prefix: str, layers: nn.ModuleList) -> int | None:
    """The layer that a stored parameter belongs to; None for what is in no layer, and for buffers."""
    if not name.startswith(prefix):
        return None
    number, _, rest = name[len(prefix) :].partition(".")
    if int(number) >= len(layers):
        return None  # behind the last, for speculative decoding
    buffers = {path for path, _ in layers[int(number)].named_buffers()}
    return None if rest in buffers else int(number)


def _read(places: dict[Path, list[tuple[int, str]]]) -> Iterator[tuple[int, Tensor]]:
    for path, names in places.items():
        with safe_open(path, "pt") as shard:
            for layer, name in names:
                yield layer, shard.get_tensor(name)


def _download(model_id: str) -> Path:
    with explained(f"{model_id}: its weights cannot be downloaded"):
        return Path(snapshot_download(model_id, allow_patterns=["model*.safetensors", INDEX]))
