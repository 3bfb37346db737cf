"""What the metrics share that sum over a layer's weights and look at nothing else."""

import math
from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.errors import UserError
from depthprune.importance.base import Batches, MetricSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

# Cast to float32 this many elements at a time: a weight of any dtype needs 16 MB more.
_BLOCK_ELEMENTS = 2**22


class Magnitude(MetricSettings):
    """A sum over all weights of a layer, norms and biases included, as the released codes have it.

    It needs no loaded model: `over` takes the weights as they come from the checkpoint's files.
    """

    needs: ClassVar[Literal["weights"]] = "weights"
    cost: ClassVar[str] = "reads the weights once"

    @abstractmethod
    def size(self, block: "Tensor") -> "Tensor":
        """The sum over a float32 tensor, a scalar."""

    def __call__(self, model: "nn.Module", batches: Batches = ()) -> "Tensor":
        """Returns a float32 tensor [L] on the CPU for a model in memory."""
        from depthprune.model.anatomy import decoder_layers

        layers = decoder_layers(model)
        return self.over(
            ((i, weight) for i, layer in enumerate(layers) for weight in layer.parameters()), len(layers)
        )

    def over(self, weights: "Iterable[tuple[int, Tensor]]", num_layers: int) -> "Tensor":
        """The scores, float32 [L], of weights that come with the number of their layer.

        Raises:
            UserError: a weight holds a value that is not finite.
        """
        import torch

        scores = torch.zeros(num_layers, dtype=torch.float64)
        for layer, weight in weights:
            blocks = weight.detach().flatten().split(_BLOCK_ELEMENTS)
            total = sum(float(self.size(block.float())) for block in blocks)
            if not math.isfinite(total):
                raise UserError(
                    f"{self.model_dump()['metric']}: layer {layer} holds a weight that is not finite: the "
                    "checkpoint is damaged, load another copy"
                )
            scores[layer] += total
        return scores.float()
