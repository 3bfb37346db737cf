"""The losses of a run, one JSON line each, live and whole after a resume."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from depthprune.files import read_json_lines, write_text


class LossLog(TrainerCallback):
    """Keeps `metrics.jsonl`: the Trainer's own history of one stage, beside the lines of the other stages.

    The history survives a resume, so the file never holds a step twice.
    """

    def __init__(self, path: Path, stage: str) -> None:
        self.path = path
        self.stage = stage
        self.steps = 0

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.steps = state.global_step
        if not state.is_world_process_zero:
            return
        entries = [entry for entry in read_json_lines(self.path) if isinstance(entry, dict)]
        others = [entry for entry in entries if entry.get("stage") != self.stage]
        # The Trainer's last entry sums up one process alone: after a resume its loss is not the run's, nor
        # are the times (`train_…`) in the others.
        steps = [entry for entry in state.log_history if "train_loss" not in entry]
        ours = [{"stage": self.stage, **_timeless(entry)} for entry in steps]
        write_text(self.path, "".join(json.dumps(entry) + "\n" for entry in [*others, *ours]))


def _timeless(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if not key.startswith("train_")}
