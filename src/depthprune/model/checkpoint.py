"""Removing decoder layers from a checkpoint's files, without loading the model."""

from collections.abc import Sequence
from pathlib import Path

from depthprune.model.loading import load_model, load_tokenizer
from depthprune.model.surgery import remove_layers
from depthprune.model.verify import save_verified


def prune_files(model_dir: str | Path, layers: Sequence[int], output: str | Path) -> None:
    """Writes the checkpoint in `model_dir` without `layers` (original indices) to `output`."""
    save_verified(remove_layers(load_model(model_dir), layers), load_tokenizer(model_dir), output)
