"""Scores that are not finite: which layer is to blame."""

from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.model.anatomy import layers_path, unwrap


def refuse_non_finite(metric: str, scores: Tensor, model: nn.Module) -> Tensor:
    """Returns the scores [L] where all are finite.

    Raises:
        UserError: names the damaged weight and its layer, or else the first layer whose score is not finite.
    """
    if scores.isfinite().all():
        return scores
    prefix = f"{layers_path(model)}."
    for name, weight in unwrap(model).named_parameters():
        if not weight.isfinite().all():
            inside = name.startswith(prefix)
            where = f"layer {name.removeprefix(prefix).split('.')[0]}" if inside else "the embedding or head"
            raise UserError(
                f"{metric}: {where} is damaged, {name} holds values that are not finite: load another copy "
                "of the model"
            )
    first = int((~scores.isfinite()).nonzero()[0])
    raise UserError(
        f"{metric}: the score of layer {first} is not finite though all weights are: load the model in "
        "float32 or bfloat16, whose range is wider than float16's"
    )
