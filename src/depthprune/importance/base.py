"""What the importance metrics share: their settings' base and the type of their data."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.settings import Settings

if TYPE_CHECKING:
    import torch

    from depthprune.model.sublayers import Sides

Batches = Iterable[dict[str, "torch.Tensor"]]
"""Dicts of `input_ids`, `attention_mask` and optionally `labels`, each [B, T], padded on the right."""


class MetricSettings(Settings):
    """An importance metric: its settings, and what it reads besides the model.

    A metric that needs no training run is called as `metric(model, batches)` and returns one float32 score
    per layer on the CPU, [L]; a higher score means a layer more worth keeping. Torch and the like are
    imported there and not at the top of the file, so that a recipe is read without them.
    """

    needs: ClassVar[Literal["nothing", "weights", "calibration", "gradients", "training"]]
    """`weights`: the checkpoint's files and no loaded model; `gradients`: calibration samples and a backward
    pass; `training`: a training run."""
    scores_pairs: ClassVar[bool] = False
    """Whether `score_pairs` scores pairs of neighbouring sublayers, for `selection.granularity`."""
    scores_sublayers: ClassVar[bool] = False
    """Whether `score_sublayers` does, for `selection.granularity=sublayers`."""
    takes_offloaded: ClassVar[bool] = True
    """Whether it scores a model whose layers are not in memory, for `device_map`."""
    paper: ClassVar[str]
    cost: ClassVar[str]
    metric: str

    def score_pairs(
        self, model: "torch.nn.Module", batches: Batches, sides: "Sequence[Sides]"
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """The scores of the layers, and of each layer's MLP with the attention of the next layer there is.

        Both float32 [L] on the CPU; of layers that are skipped, and the last one's MLP, the entries say
        nothing. The model may be `recomposed`.
        """
        raise NotImplementedError

    def score_sublayers(
        self, model: "torch.nn.Module", batches: Batches, gone: "Sequence[int]", sides: "Sequence[Sides]"
    ) -> "torch.Tensor":
        """The scores of the sublayers (attention i is 2i, MLP i 2i + 1) where those in `gone` add nothing.

        float32 [2L] on the CPU; those of sublayers that are gone say nothing.
        """
        raise NotImplementedError
