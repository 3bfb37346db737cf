"""Reverse order (Reassessing Layer Pruning, ICLR 2026): the deepest layers go first."""

from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.importance.base import Batches, MetricSettings

if TYPE_CHECKING:
    import torch


class Reverse(MetricSettings):
    """s_i = −i: no data and no pass, and hard to beat once the model is tuned afterwards."""

    needs: ClassVar[Literal["nothing"]] = "nothing"
    paper: ClassVar[str] = "Reassessing Layer Pruning in LLMs (openreview 04Tfwy3LLC)"
    cost: ClassVar[str] = "none"
    metric: Literal["reverse"] = "reverse"

    def __call__(self, model: "torch.nn.Module", batches: Batches = ()) -> "torch.Tensor":
        """Returns a float32 tensor [L]: 0, −1, …, −(L−1)."""
        import torch

        from depthprune.model.anatomy import decoder_layers

        return -torch.arange(len(decoder_layers(model)), dtype=torch.float32)
