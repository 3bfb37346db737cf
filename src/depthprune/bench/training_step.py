"""A training step as `depthprune train` makes it: TRL's loss, LoRA or all weights, clipping, AdamW."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from depthprune.bench.clock import Section, Work
from depthprune.bench.counting import held_bytes
from depthprune.settings import TrainerSettings
from depthprune.training.trainer import sft_trainer, untouched

BYTES_A_WEIGHT = 16
"""Of full training: the weight, its gradient, AdamW's two moments, all float32."""


class Stepper:
    """Makes steps of one training of a model, on rows of any shape."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = 1  # which its own loop would set, and mixtures read
        self.model, self.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.model_wrapped = self.model
        self.work(torch.arange(8)[None], "")(lambda _: nullcontext())  # makes the moments

    def held_bytes(self) -> int:
        """Of weights, adapters and the optimizer's state: what lies in memory between two steps."""
        state = [value for values in self.optimizer.state.values() for value in values.values()]
        moments = [value for value in state if isinstance(value, torch.Tensor)]
        return held_bytes((*self.model.parameters(), *self.model.buffers(), *moments))

    def work(self, rows: torch.Tensor, name: str) -> Work:
        """A work of one section, `name`: a step on all of `rows` [B, T] at once."""
        features = [{"input_ids": row} for row in rows.tolist()]
        batch = self.trainer.data_collator(features)
        trainer, limit = self.trainer, self.trainer.args.max_grad_norm

        def step(section: Section) -> None:
            with section(name):
                trainer.training_step(self.model, dict(batch), rows.numel())
                trainer.accelerator.clip_grad_norm_(self.model.parameters(), limit)
                self.optimizer.step()
                self.model.zero_grad()

        return step


@contextmanager
def stepper(
    model: PreTrainedModel, tokenizer: Any, settings: TrainerSettings, longest: int
) -> Iterator[Stepper]:
    """A `Stepper` of the model, which is trained in place; adapters are off again afterwards.

    Args:
        longest: tokens of the longest rows to come.
    """
    rows = Dataset.from_list([{"input_ids": [0] * longest}])
    with tempfile.TemporaryDirectory() as folder, untouched(model):
        trainer: Any = sft_trainer(model, tokenizer, rows, settings, Path(folder), seed=0)
        yield Stepper(trainer)
        inner = trainer.accelerator.unwrap_model(trainer.model)
        if inner is not model:
            inner.unload()
