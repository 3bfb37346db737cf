"""One run: what it reads and where it writes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState

from depthprune.distributed.sharded import shards
from depthprune.files import remove
from depthprune.model.arithmetic import Arithmetic
from depthprune.model.casting import cast_weights
from depthprune.model.loading import load_config, load_model
from depthprune.model.offloaded import load_offloaded
from depthprune.model.quantised import quantisation
from depthprune.model.saving import read_base
from depthprune.model.skeleton import checkpoint_dtype
from depthprune.model.verify import save_verified
from depthprune.pipeline.folder import RunFolder
from depthprune.pipeline.inputs import Inputs
from depthprune.recipe.recipe import Recipe
from depthprune.selection import KeepAll
from depthprune.settings import TrainerSettings
from depthprune.training import NoTraining

S = TypeVar("S", bound=TrainerSettings)

TUNES = ("train", "baseline")
"""The stages whose model has learned a chat template, where one was given."""


@dataclass
class Job:
    """What a run reads, where it writes, and which of several processes this is."""

    inputs: Inputs
    folder: RunFolder
    state: PartialState
    arithmetic: Arithmetic
    beside: tuple[Path, ...] | None = None
    """The other runs of a comparison, if it is one: what one has done serves all."""

    @property
    def recipe(self) -> Recipe:
        return self.inputs.recipe

    @property
    def prunes(self) -> bool:
        return not isinstance(self.recipe.selection, KeepAll)

    @property
    def trains(self) -> bool:
        return not isinstance(self.recipe.training, NoTraining)

    @property
    def dtype(self) -> torch.dtype:
        """Of the checkpoints that this run writes."""
        if self.recipe.dtype != "auto":
            return getattr(torch, self.recipe.dtype)
        return checkpoint_dtype(self.inputs.config)

    def settled(self, settings: S) -> S:
        """A training's settings with `bf16` decided, where the recipe leaves it open."""
        if settings.bf16 is not None or self.arithmetic.dtype is None:
            return settings
        return settings.model_copy(update={"bf16": self.arithmetic.autocasts})

    @property
    def training_device(self) -> torch.device:
        """Where a model is loaded to be trained: in shards it need not fit an accelerator as a whole."""
        return torch.device("cpu") if shards() else self.state.device

    def load(self, path: str | Path, dtype: torch.dtype | str | None = None) -> Any:
        """A model on this process's device, by default as this run's arithmetic has it."""
        dtype, code = dtype or self.arithmetic.weights(), self.recipe.trust_remote_code
        if self.recipe.device_map is None or quantisation(load_config(path, code), path) is not None:
            return load_model(path, dtype, self.state.device, code)
        scratch = self.folder.own if self.folder.own.is_dir() else None
        where = self.recipe.device_map
        return load_offloaded(path, where, dtype, self.state.device, code, scratch)[0]

    def save(self, model: Any, stage: str) -> None:
        """Writes the checkpoint of a stage, if it passes the gate."""
        checkpoint = self.folder.artifact(stage)
        remove(checkpoint)
        template = self.inputs.chat_template if stage in TUNES else None
        base = read_base(str(self.recipe.full), self.recipe.trust_remote_code, template)
        save_verified(cast_weights(model, self.dtype), None, checkpoint, base)
