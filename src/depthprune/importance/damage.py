"""Scores that are not finite: which layer is to blame."""

from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.model.damage import damage


def refuse_non_finite(metric: str, scores: Tensor, model: nn.Module) -> Tensor:
    """Returns the scores [L] where all are finite.

    Raises:
        UserError: names the damaged weight and its layer, or else the first layer whose score is not finite.
    """
    if scores.isfinite().all():
        return scores
    if found := damage(model):
        raise UserError(f"{metric}: {found}")
    first = int((~scores.isfinite()).nonzero()[0])
    raise UserError(
        f"{metric}: the score of layer {first} is not finite though all weights are: load the model in "
        "float32 or bfloat16, whose range is wider than float16's"
    )
