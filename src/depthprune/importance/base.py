"""What the importance metrics share: their settings' base and the type of their data."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from depthprune.settings import Settings

if TYPE_CHECKING:
    import torch

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
    paper: ClassVar[str]
    cost: ClassVar[str]
    metric: str
