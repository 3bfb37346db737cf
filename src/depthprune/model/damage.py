"""Weights that are not finite, named."""

from torch import nn

from depthprune.model.anatomy import layers_path, unwrap


def damage(model: nn.Module) -> str | None:
    """In words, the first weight that holds values that are not finite, and its layer; None if all are."""
    prefix = f"{layers_path(model)}."
    for name, weight in unwrap(model).named_parameters():
        values = weight.float() if weight.itemsize == 1 else weight  # fp8 has no isfinite
        if weight.is_floating_point() and not values.isfinite().all():
            inside = name.startswith(prefix)
            where = f"layer {name.removeprefix(prefix).split('.')[0]}" if inside else "the embedding or head"
            return (
                f"{where} is damaged, {name} holds values that are not finite: load another copy of the model"
            )
    return None
