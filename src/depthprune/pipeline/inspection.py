"""What a model is made of, and what it would be at a ratio: from its config alone, without a weight."""

from typing import Any

import torch

from depthprune.model.anatomy import (
    decoder_layers,
    linear_weights,
    lm_head,
    parameters_per_layer,
    tied_embeddings,
)
from depthprune.model.loading import load_config
from depthprune.model.skeleton import checkpoint_dtype, skeleton
from depthprune.pipeline.inspection_of_files import left
from depthprune.selection.target import Target, shares


def inspect_model(
    path_or_id: str, ratio: float, trust_remote_code: bool = False, target: Target | None = None
) -> dict[str, Any]:
    """Layers, parameters of each, and the size and cost that would remain when `ratio` of the layers goes, or
    as many as a target asks for.

    Cost is the matrix products of one token, layers and head, relative to the whole model; attention's own
    products over the context come on top of both. Mixture-of-experts layers count every expert.
    """
    config = load_config(path_or_id, trust_remote_code)
    model = skeleton(config, trust_remote_code)
    layers = parameters_per_layer(model)
    total, head = counts(model)
    dtype = checkpoint_dtype(config)
    return {
        "model": path_or_id,
        "model_type": config.model_type,
        "dtype": str(dtype).removeprefix("torch."),
        "num_layers": len(layers),
        "parameters": total,
        "parameters_per_layer": layers,
        "linears_per_layer": [len(linear_weights(layer)) for layer in decoder_layers(model)],
        "tied_embeddings": tied_embeddings(model),
        **left(layers, total, head, dtype.itemsize, ratio, target),
    }


def remaining(model: torch.nn.Module, removed: tuple[int, ...], dtype: torch.dtype) -> dict[str, Any]:
    """Size and cost after `removed` go: layers, parameters, bytes, and the shares of the whole model's."""
    total, head = counts(model)
    return shares(parameters_per_layer(model), total, head, removed, dtype.itemsize)


def counts(model: torch.nn.Module) -> tuple[int, int]:
    """The parameters of all, and of the head."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return total, sum(parameter.numel() for parameter in lm_head(model).parameters())
