"""Scores that can be compared."""

import math
from collections.abc import Sequence

from depthprune.errors import UserError


def finite(scores: Sequence[float], metric: str) -> list[float]:
    """The scores as floats; raises `UserError` where one is infinite or no number."""
    values = [float(score) for score in scores]
    if not all(map(math.isfinite, values)):
        raise UserError(f"the {metric} scores hold a value that is not finite: {values}")
    return values
