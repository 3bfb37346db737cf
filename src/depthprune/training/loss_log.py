"""The losses of a run, one JSON line each, live and whole after a resume."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from depthprune.files import write_text


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
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        others = [line for line in lines if json.loads(line)["stage"] != self.stage]
        ours = [json.dumps({"stage": self.stage, **entry}) for entry in state.log_history]
        write_text(self.path, "\n".join([*others, *ours]) + "\n")
