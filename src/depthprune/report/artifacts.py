"""What a run has left in its folder so far; a run that ended early leaves less."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from depthprune.errors import plain_values
from depthprune.files import OWN, read_json_lines, read_object
from depthprune.model.published import read_record, read_stamps
from depthprune.selection import Plan

HUB_ID = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)?")


@dataclass(frozen=True)
class Artifacts:
    """The artifacts of a run as they were written, None (or empty) where there is none, or another recipe's.

    Attributes:
        recipe: the resolved recipe.
        stages: stage → digest, seconds, peak_bytes, of those that ended.
        losses: the training log, one entry a line, each with its stage.
        training: stage → what it trained.
        config: of the model that the run folder is, once there is one that the recipe made.
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
    stamps = read_stamps(root) or {}
    stages = {stage: stamp for stage, stamp in stamps.items() if not stamp.get("stale")}

    def read(name: str, stage: str) -> Any:
        return read_object(own / name) if stage in stages or stage not in stamps else None

    recipe, config = own / "recipe.yaml", root / "config.json"
    plan = read("plan.json", "select")
    published = read_record(root)["stage"]
    losses = loss_entries(own / "metrics.jsonl")
    return Artifacts(
        recipe=yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else None,
        scores=read("scores.json", "score"),
        plan=Plan.from_json(plan) if plan else None,
        recovery=read("recovery.json", "prune"),
        evaluation=read("eval.json", "evaluate"),
        environment=read_object(own / "environment.json"),
        stages=stages,
        losses=[entry for entry in losses if entry["stage"] in stages or entry["stage"] not in stamps],
        training=read_object(own / "training.json"),
        config=read_object(config) if published is None or published in stages else None,
    )


def loss_entries(path: Path) -> list[dict[str, Any]]:
    """The lines of a training log, each with its stage."""
    return [entry for entry in read_json_lines(path) if isinstance(entry, dict) and "stage" in entry]


def shown(run: Artifacts) -> Artifacts:
    """The same, with nothing in its strings that a page's reader could not see."""
    return replace(
        run,
        recipe=plain_values(run.recipe),
        evaluation=plain_values(run.evaluation),
        environment=plain_values(run.environment),
        losses=plain_values(run.losses),
    )


def is_hub_id(model: str) -> bool:
    """Whether the model that a run names is one on the hub, and no folder."""
    return bool(HUB_ID.fullmatch(model)) and not model.startswith(".") and not Path(model).exists()


def name_of(model: str) -> str:
    """A hub id as it is; of a folder its name alone, since the rest says nothing to others."""
    return model if is_hub_id(model) else Path(model).resolve().name
