"""The whole configuration of a run: one method for each of four slots, and what they share."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, SerializeAsAny

from depthprune.importance import METRICS
from depthprune.importance.base import MetricSettings
from depthprune.recovery import RECOVERIES
from depthprune.recovery.base import RecoverySettings
from depthprune.selection import SELECTIONS, SelectionSettings
from depthprune.settings import Settings
from depthprune.training import TRAININGS, FineTuning, NoTraining

# slot → (the key that names the method, the methods); a method is found here and nowhere else.
SLOTS: dict[str, tuple[str, dict[str, Any]]] = {
    "importance": ("metric", METRICS),
    "selection": ("method", SELECTIONS),
    "recovery": ("method", RECOVERIES),
    "training": ("method", TRAININGS),
}


class Calibration(Settings):
    """The samples that metrics and recoveries without training look at."""

    samples: int = Field(128, ge=1)
    length: int = Field(128, ge=2)
    """Tokens of each sample."""
    batch_size: int = Field(8, ge=1)


class Evaluation(Settings):
    """How the models of the table are measured."""

    batch_size: int = Field(16, ge=1)
    max_length: int | None = Field(None, ge=8)
    """Longer rows are cut; by default the model's own context, at most 2048."""
    max_new_tokens: int = Field(64, ge=1)
    bert_score: str | None = None
    """A model, folder or hub id, by which BERTScore compares what is written with the completion."""
    bert_score_layer: int | None = Field(None, ge=1)
    """The layer of it that is read; by default the one that bert-score's authors chose for the model."""
    limit: int | None = Field(None, ge=1)
    """Only this many rows of each dataset, or windows of a text, spread evenly over it. By default all rows,
    and of a text as many windows as hold about 65 536 tokens."""


class Recipe(Settings):
    """A run: what to prune, on what data, and one method for each of the four slots."""

    model: str | None = None
    """A model folder, or a hub id."""
    weights: str | None = None
    """The same model in full precision, where `model` is a quantised copy: that is scored, this one is cut,
    repaired, tuned and measured."""
    train: str | None = None
    eval: tuple[str, ...] = ()
    """Datasets to measure on; without one, rows are cut off the training data and never trained on."""
    calibration: str | None = None
    chat_template: str | None = None
    """A Jinja file, for `messages` where the tokenizer carries no chat template."""
    baseline: bool = False
    """Also train the whole model the same way: the fair control."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the checkpoints that are written; `auto` keeps the model's own."""
    arithmetic: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of everything that is computed. `auto`: an accelerator's own way; on a CPU the faster one, as a decoder
    layer shows. `training.bf16` and `importance.bf16` stand above it."""
    device_map: Literal["auto", "disk"] | None = None
    """Where the weights of a model lie that is larger than the memory. `disk`: in its files, from which the
    layers come one at a time; `auto`: on the accelerators, then in the CPU's memory, then on disk."""
    seed: int = Field(42, ge=0, lt=2**32)
    keep_gradients: bool = False
    trust_remote_code: bool = False

    importance: SerializeAsAny[MetricSettings]
    selection: SerializeAsAny[SelectionSettings]
    recovery: SerializeAsAny[RecoverySettings]
    training: SerializeAsAny[FineTuning | NoTraining]
    calibration_samples: Calibration = Calibration()
    evaluation: Evaluation = Evaluation()

    @property
    def full(self) -> str | None:
        """The model that is cut: `weights`, or where there are none `model` itself."""
        return self.weights or self.model

    @property
    def reads_calibration(self) -> str | None:
        """The setting that reads calibration samples, if one does."""
        if self.importance.needs in ("calibration", "gradients"):
            return f"importance.metric={self.importance.metric}"
        return f"recovery.method={self.recovery.method}" if self.recovery.needs_calibration else None

    def located(self) -> "Recipe":
        """The same with every folder and file by its absolute path: it can be run from anywhere."""
        paths = {
            key: _located(getattr(self, key))
            for key in ("model", "weights", "train", "calibration", "chat_template")
        }
        return self.model_copy(update={**paths, "eval": tuple(map(_located, self.eval))})

    def as_yaml(self) -> str:
        """The resolved recipe, with every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def digest(self, *keys: str) -> str:
        """A short hash of some of the recipe's keys."""
        dumped = self.model_dump(mode="json", include=set(keys))
        parts = {key: part for key in keys if isinstance(part := getattr(self, key), Settings)}
        values = {**dumped, **{key: part.counted() for key, part in parts.items()}}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _located(source: Any) -> Any:
    """An existing path made absolute, with its `:split` if it has one; a hub id, or nothing, as it is."""
    if source is None:
        return None
    path, colon, split = source, "", ""
    if not Path(path).expanduser().exists():
        path, colon, split = source.rpartition(":")
    found = Path(path).expanduser()
    return f"{found.absolute()}{colon}{split}" if path and found.exists() else source
