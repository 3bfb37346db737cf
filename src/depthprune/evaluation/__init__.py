"""Measuring a model on the user's own data."""

from depthprune.evaluation.evaluate import evaluate
from depthprune.evaluation.measurement import Measurement

__all__ = ["Measurement", "evaluate"]
