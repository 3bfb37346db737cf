"""Cosine distance across a window (LLM-Streamline, arXiv:2403.19135): how far n layers turn the stream."""

from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.importance.windows import WindowMetric

if TYPE_CHECKING:
    from torch import Tensor


class CosineWindow(WindowMetric):
    """1 − E_t[cos(h_i[t], h_{i+n}[t])], the mean over the real tokens of the calibration samples."""

    paper: ClassVar[str] = "LLM-Streamline (arXiv:2403.19135)"
    metric: Literal["cosine-window"] = "cosine-window"

    def distance(self, before: "Tensor", after: "Tensor", mask: "Tensor") -> tuple[float, int]:
        """1 − cosine of each real token, in [0, 2]."""
        from torch.nn.functional import cosine_similarity

        turned = 1 - cosine_similarity(before[mask], after[mask], dim=-1)
        return float(turned.double().sum()), len(turned)
