"""A run's target of size or speed, as the number of layers that go: known before anything is computed."""

import torch

from depthprune.errors import UserError
from depthprune.model.anatomy import parameters_per_layer
from depthprune.model.loading import load_config
from depthprune.model.skeleton import checkpoint_dtype, skeleton
from depthprune.pipeline.inspection import counts
from depthprune.recipe.recipe import Recipe
from depthprune.selection import Amount, resolve_layers
from depthprune.selection.pairs import Cuts
from depthprune.selection.target import Target


def resolve(recipe: Recipe, target: Target) -> tuple[Recipe, str]:
    """The recipe with `selection.num_removed` for the target, and what it comes to, in words.

    Memory is that of the weights in the dtype that the run writes.

    Raises:
        UserError: no model, a selection that takes no amount, a target that is met already or out of reach.
    """
    selection = recipe.selection
    if recipe.model is None:
        raise UserError("no model: give a model folder or a hub id with --model")
    if not isinstance(selection, Amount):
        raise UserError(
            f"{target.option}: selection.method={selection.method} takes no amount: leave one of them out"
        )
    if isinstance(selection, Cuts) and selection.granularity != "layers":
        raise UserError(
            f"{target.option} counts in whole layers, and selection.granularity={selection.granularity} does "
            "not: give a ratio, or selection.granularity=layers"
        )
    config = load_config(recipe.model, recipe.trust_remote_code)
    model = skeleton(config, recipe.trust_remote_code)
    layers = parameters_per_layer(model)
    dtype = checkpoint_dtype(config) if recipe.dtype == "auto" else getattr(torch, recipe.dtype)
    count = target.layers_to_go(
        layers,
        *counts(model),
        dtype.itemsize,
        resolve_layers(selection.protect, len(layers), "selection.protect"),
    )
    amount = {"ratio": None, "num_removed": count, "target_parameters": None}
    resolved = recipe.model_copy(update={"selection": selection.model_copy(update=amount)})
    return resolved, target.said(count, layers)
