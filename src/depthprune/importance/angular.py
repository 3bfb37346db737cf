"""Angular distance (UIDL, arXiv:2403.17887): how far a window of layers turns the last token."""

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.importance.windows import WindowMetric

if TYPE_CHECKING:
    from torch import Tensor


class Angular(WindowMetric):
    """d(i, n) = arccos(cos(h_i[T], h_{i+n}[T])) / π, T the last real token, the mean over samples (eq. 7)."""

    paper: ClassVar[str] = "UIDL (arXiv:2403.17887)"
    metric: Literal["angular"] = "angular"

    def distance(self, before: "Tensor", after: "Tensor", mask: "Tensor") -> tuple[float, int]:
        """Angles as shares of a half turn, one for each sample that has a token."""
        from torch.nn.functional import cosine_similarity

        rows = mask.any(dim=1).nonzero().squeeze(1)
        last = mask.shape[1] - 1 - mask[rows].flip(1).int().argmax(dim=1)
        cosine = cosine_similarity(before[rows, last], after[rows, last], dim=-1)
        return float((cosine.clamp(-1, 1).arccos() / math.pi).sum()), len(rows)
