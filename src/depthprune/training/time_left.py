"""How long a training will take, from its first micro-batches, where there is no bar that shows it."""

import sys
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from depthprune.cost import Lines


class TimeLeft(TrainerCallback):
    """Lines in the log of the main process; on a terminal the Trainer has a bar.

    Args:
        steps: after which the training ends, should the Trainer's own count be more.
    """

    def __init__(self, description: str, steps: int | None = None) -> None:
        self.description = description
        self.steps = steps
        self.lines: Lines | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        left = min(state.max_steps, self.steps or state.max_steps) - state.global_step
        if state.is_world_process_zero and not sys.stderr.isatty() and left > 0:
            self.lines = Lines(left, self.description)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._advance(args)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._advance(args)

    def _advance(self, args: TrainingArguments) -> None:
        if self.lines is not None:
            self.lines(1 / args.gradient_accumulation_steps)
