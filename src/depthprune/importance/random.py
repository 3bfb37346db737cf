"""Random scores: the control that every other metric has to beat."""

from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.importance.base import Batches, MetricSettings

if TYPE_CHECKING:
    import torch


class Random(MetricSettings):
    """One score per layer, uniform in [0, 1)."""

    needs: ClassVar[Literal["nothing"]] = "nothing"
    paper: ClassVar[str] = "–"
    cost: ClassVar[str] = "none"
    metric: Literal["random"] = "random"
    seed: int = 0

    def __call__(self, model: "torch.nn.Module", batches: Batches = ()) -> "torch.Tensor":
        """Returns a float32 tensor [L]; the same seed gives the same scores."""
        import torch

        from depthprune.model.anatomy import decoder_layers

        return torch.rand(len(decoder_layers(model)), generator=torch.Generator().manual_seed(self.seed))
