"""What a run has left in its folder so far; a run that ended early leaves less."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from depthprune.files import OWN, read_json
from depthprune.selection import Plan


@dataclass(frozen=True)
class Artifacts:
    """The artifacts of a run as they were written, None (or empty) where there is none.

    Attributes:
        recipe: the resolved recipe.
        stages: stage → digest, seconds, peak_bytes, of those that ended.
        losses: the training log, one entry a line, each with its stage.
        training: stage → what it trained.
        config: of the model that the run folder is, once there is one.
    """

    recipe: dict[str, Any] | None
    scores: dict[str, Any] | None
    plan: Plan | None
    recovery: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    environment: dict[str, Any] | None
    stages: dict[str, Any]
    losses: list[dict[str, Any]]
    training: dict[str, Any] | None
    config: dict[str, Any] | None

    @property
    def model(self) -> str:
        """As the user named it."""
        named = (self.recipe or {}).get("model")
        return str(named) if named else "the model"

    @property
    def tuned(self) -> str | None:
        """How the model in the run folder was fine-tuned; None where it was not."""
        method = self.recipe["training"]["method"] if self.recipe and "train" in self.stages else "none"
        return None if method == "none" else method

    @property
    def repaired(self) -> list[int]:
        """The layers into which a recovery folded a linear map."""
        found = self.recovery or {}
        return found["changed_layers"] if found.get("repairs") else []

    @property
    def dtype(self) -> str | None:
        """Of the checkpoint in the run folder."""
        return (self.config or {}).get("dtype")


def read_artifacts(root: Path) -> Artifacts:
    """Whatever stands in the run folder `root` now."""
    own = root / OWN

    def read(name: str) -> Any:
        return read_json(own / name) if (own / name).is_file() else None

    recipe, metrics, config = own / "recipe.yaml", own / "metrics.jsonl", root / "config.json"
    plan = read("plan.json")
    return Artifacts(
        recipe=yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else None,
        scores=read("scores.json"),
        plan=Plan.from_json(plan) if plan else None,
        recovery=read("recovery.json"),
        evaluation=read("eval.json"),
        environment=read("environment.json"),
        stages=read("stages.json") or {},
        losses=[json.loads(line) for line in metrics.read_text().splitlines()] if metrics.is_file() else [],
        training=read("training.json"),
        config=read_json(config) if config.is_file() else None,
    )
