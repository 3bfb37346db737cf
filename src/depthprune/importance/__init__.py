"""Importance metrics: one score per layer, higher = keep. To add one: a file here, and a line in METRICS."""

from typing import TYPE_CHECKING, Any

from depthprune.errors import UserError
from depthprune.importance.angular import Angular
from depthprune.importance.base import Batches, MetricSettings
from depthprune.importance.block_influence import BlockInfluence
from depthprune.importance.cosine_window import CosineWindow
from depthprune.importance.gradient_norm import GradientNorm
from depthprune.importance.igia import Igia
from depthprune.importance.loss import Loss
from depthprune.importance.magnitude_l1 import MagnitudeL1
from depthprune.importance.magnitude_l2 import MagnitudeL2
from depthprune.importance.none import NoMetric
from depthprune.importance.output_change import OutputChange
from depthprune.importance.perplexity import Perplexity
from depthprune.importance.random import Random
from depthprune.importance.reverse import Reverse
from depthprune.importance.taylor import Taylor
from depthprune.settings import build

if TYPE_CHECKING:
    import torch

METRICS: dict[str, type[MetricSettings]] = {
    "igia": Igia,
    "gradient-norm": GradientNorm,
    "block-influence": BlockInfluence,
    "angular": Angular,
    "cosine-window": CosineWindow,
    "perplexity": Perplexity,
    "loss": Loss,
    "output-change": OutputChange,
    "taylor": Taylor,
    "magnitude-l1": MagnitudeL1,
    "magnitude-l2": MagnitudeL2,
    "reverse": Reverse,
    "random": Random,
    "none": NoMetric,
}


def score_layers(
    model: "torch.nn.Module", batches: Batches, metric: str = "block-influence", **settings: Any
) -> "torch.Tensor":
    """Scores every decoder layer of a loaded model; a higher score means a layer more worth keeping.

    Args:
        model: a decoder-only Hugging Face model, in memory.
        batches: dicts with `input_ids`, `attention_mask` and optionally `labels`, each [B, T], padded right.
        metric: a name of METRICS that needs no training run.
        settings: the fields of the metric's settings class.

    Returns:
        float32 tensor [L] on the CPU.

    Raises:
        UserError: unknown metric, wrong settings, or a metric that needs a training run.
    """
    if metric not in METRICS:
        raise UserError(f"metric {metric!r} is unknown: choose one of {', '.join(METRICS)}")
    if METRICS[metric].needs == "training":
        raise UserError(
            f"metric {metric!r} reads gradients of a training run: call depthprune.run(recipe, output)"
        )
    scorer: Any = build(METRICS[metric], settings, metric)
    return scorer(model, batches)
