"""Datasets: reading and checking rows, cutting off an evaluation part, tokens, calibration samples."""

from depthprune.data.batches import batches
from depthprune.data.calibration import calibration_batches
from depthprune.data.chat import load_chat_template
from depthprune.data.examples import Examples, load_examples
from depthprune.data.split import split_off
from depthprune.data.tokens import encode

__all__ = [
    "Examples",
    "batches",
    "calibration_batches",
    "encode",
    "load_chat_template",
    "load_examples",
    "split_off",
]
