"""The models to measure: checked before any weight is read, and loaded alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PretrainedConfig, PreTrainedModel

from depthprune.bench.counting import held_bytes
from depthprune.model.anatomy import decoder_layers
from depthprune.model.arithmetic import Arithmetic, choose_arithmetic
from depthprune.model.depth_config import text_config
from depthprune.model.loading import load_config, load_model
from depthprune.model.quantised import quantisation
from depthprune.model.skeleton import checkpoint_dtype, skeleton


@dataclass(frozen=True)
class Candidate:
    """A model that has been asked for, before its weights are loaded."""

    path: str
    config: PretrainedConfig
    parameters: int
    trust_remote_code: bool

    @property
    def context(self) -> int | None:
        """The longest text in tokens, where the config has one."""
        return getattr(text_config(self.config), "max_position_embeddings", None)

    @property
    def vocabulary(self) -> int:
        return text_config(self.config).vocab_size

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights on disk."""
        return checkpoint_dtype(self.config)

    @property
    def quantised(self) -> bool:
        return quantisation(self.config, self.path) is not None

    def load(self, arithmetic: Arithmetic) -> PreTrainedModel:
        weights: Any = "auto" if self.quantised else arithmetic.weights()
        return load_model(self.path, weights, PartialState().device, self.trust_remote_code)


def find(path_or_id: str, trust_remote_code: bool = False) -> Candidate:
    """Reads the config alone; raises UserError where there is no such model, or one of another kind."""
    config = load_config(path_or_id, trust_remote_code)
    shape = skeleton(config, trust_remote_code)
    decoder_layers(shape)
    parameters = sum(parameter.numel() for parameter in shape.parameters())
    return Candidate(str(path_or_id), config, parameters, trust_remote_code)


def common_arithmetic(candidates: list[Candidate]) -> Arithmetic:
    """How all of them compute: as suits the largest one, with room for all."""
    largest = max(candidates, key=lambda candidate: candidate.parameters)
    together = sum(candidate.parameters for candidate in candidates)
    return choose_arithmetic(largest.config, together, trust_remote_code=largest.trust_remote_code)


def described(candidate: Candidate, model: PreTrainedModel) -> dict[str, Any]:
    """What the result says of a model."""
    return {
        "path": candidate.path,
        "name": Path(candidate.path).name,
        "layers": len(decoder_layers(model)),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "bytes": held_bytes((*model.parameters(), *model.buffers())),
        "dtype": str(model.dtype).removeprefix("torch."),
    }
