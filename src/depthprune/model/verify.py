"""The gate: what every saved model passes."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from depthprune.errors import UserError
from depthprune.model.loading import load_model


class GateError(RuntimeError):
    """A model we made does not survive saving; it is not saved."""


def verify(folder: str | Path) -> None:
    """Checks a saved model; raises UserError with the reason in one line."""
    model = load_model(folder)
    probe = torch.randint(
        0, model.config.get_text_config().vocab_size, (2, 8), generator=torch.Generator().manual_seed(0)
    )
    with torch.inference_mode():
        if not model(probe.to(model.device)).logits.isfinite().all():
            raise UserError(f"{folder}: the logits are not finite")


def save_verified(model: nn.Module, tokenizer: Any | None, folder: str | Path) -> None:
    """Saves the model into `folder` once its reloaded copy has been found equal to it; raises GateError if not."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        model.save_pretrained(staging)
        if tokenizer is not None:
            tokenizer.save_pretrained(staging)
        reloaded = load_model(staging, device=model.device).state_dict()
        for name, tensor in model.state_dict().items():
            if not torch.equal(tensor, reloaded[name]):
                raise GateError(f"{name} is not the same after saving and loading")
        folder.mkdir(exist_ok=True)
        for file in staging.iterdir():
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(staging)
