"""What a model is made of, from its config.json and the headers of its files: nothing else is imported."""

import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from depthprune.model.config_file import CONFIG, check_no_adapter, read_config_file
from depthprune.model.shards import TORCH_DTYPES, read_shards
from depthprune.selection import select_layers
from depthprune.selection.target import Target, shares

# Decoders of linears and norms alone, whose files name them as the model does.
PLAIN = (
    "cohere2",
    "exaone4",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm4",
    "granite",
    "llama",
    "mistral",
    "olmo2",
    "olmo3",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "stablelm",
    "starcoder2",
)
LAYER = re.compile(r"model\.layers\.(\d+)\.")
ACTIVATIONS = {"silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"}
BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def inspect_files(path: str, ratio: float, target: Target | None = None) -> dict[str, Any] | None:
    """As `inspect_model`; None where the files alone do not tell, and the model has to be built.

    Raises `UserError` for files that no model can be read from.
    """
    folder = Path(path)
    if not (folder / CONFIG).is_file():
        return None
    config = read_config_file(folder)
    check_no_adapter(folder)
    if not _is_plain(config):
        return None
    tensors = {name: found for shard in read_shards(folder) for name, found in shard.tensors.items()}
    layers, linears = _layers(tensors)
    dtypes, tied = {found["dtype"] for found in tensors.values()}, HEAD not in tensors
    plain = EMBEDDING in tensors and len(dtypes) == 1 and dtypes <= TORCH_DTYPES.keys()
    if (
        not plain
        or len(layers) != config.get("num_hidden_layers")
        or (config.get("tie_word_embeddings") and not tied)
    ):
        return None
    stated = config.get("dtype") or config.get("torch_dtype") or TORCH_DTYPES[dtypes.pop()]
    if not isinstance(stated, str) or stated not in BYTES:
        return None
    total = sum(_size(found) for found in tensors.values())
    head = _size(tensors[EMBEDDING if tied else HEAD])
    return {
        "model": path,
        "model_type": config["model_type"],
        "dtype": stated,
        "num_layers": len(layers),
        "parameters": total,
        "parameters_per_layer": layers,
        "linears_per_layer": linears,
        "tied_embeddings": tied,
        **left(layers, total, head, BYTES[stated], ratio, target),
    }


def left(
    layers: list[int], total: int, head: int, itemsize: int, ratio: float, target: Target | None
) -> dict[str, Any]:
    """What remains at a ratio, or within a target: of the deepest layers as many as have to go."""
    if target is None:
        removed = select_layers([0.0] * len(layers), ratio).removed
        return {"ratio": ratio, "remaining": shares(layers, total, head, removed, itemsize)}
    count = target.layers_to_go(layers, total, head, itemsize)
    removed = select_layers([0.0] * len(layers), num_removed=count).removed
    return {
        "ratio": count / len(layers),
        "target": target.said(count, layers),
        "remaining": shares(layers, total, head, removed, itemsize),
    }


def _is_plain(config: dict[str, Any]) -> bool:
    """Whether the config is one that a model of linears and norms can be made of."""
    heads = config.get("num_attention_heads")
    named = [config.get(name) or "silu" for name in ("hidden_act", "hidden_activation")]
    known = all(isinstance(name, str) and name in ACTIVATIONS for name in named)
    other = config.keys() & {"quantization_config", "auto_map"}
    return config["model_type"] in PLAIN and not other and known and isinstance(heads, int) and heads > 0


def _layers(tensors: dict[str, dict[str, Any]]) -> tuple[list[int], list[int]]:
    """The parameters and the linears of each layer, [L]."""
    parameters, linears = Counter[int](), Counter[int]()
    for name, found in tensors.items():
        if match := LAYER.match(name):
            layer = int(match[1])
            parameters[layer] += _size(found)
            linears[layer] += len(found["shape"]) == 2
    depth = max(parameters, default=-1) + 1
    return [parameters[i] for i in range(depth)], [linears[i] for i in range(depth)]


def _size(tensor: dict[str, Any]) -> int:
    return math.prod(tensor["shape"])
