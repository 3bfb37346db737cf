"""No metric: for a recovery that chooses the layers itself, or a user who names them."""

from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.importance.base import Batches, MetricSettings

if TYPE_CHECKING:
    import torch


class NoMetric(MetricSettings):
    """Scores nothing: every layer gets 0."""

    needs: ClassVar[Literal["nothing"]] = "nothing"
    paper: ClassVar[str] = "–"
    cost: ClassVar[str] = "none"
    metric: Literal["none"] = "none"

    def __call__(self, model: "torch.nn.Module", batches: Batches = ()) -> "torch.Tensor":
        """Returns a float32 tensor [L] of zeros."""
        import torch

        from depthprune.model.anatomy import decoder_layers

        return torch.zeros(len(decoder_layers(model)))
