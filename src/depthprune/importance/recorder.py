"""Reads IGIA's scores off the gradients of a LoRA run."""

import logging
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora.layer import LoraLayer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from depthprune.distributed.sharded import whole
from depthprune.errors import UserError
from depthprune.importance.factors import FactorPair, find_adapters, gradient_pairs, write_step
from depthprune.importance.igia import MIN_STEPS, Igia
from depthprune.model.anatomy import decoder_layers, layers_path

log = logging.getLogger("depthprune")


class GradientRecorder(TrainerCallback):
    """Scores the layers while a LoRA run trains, and ends the run after t steps.

    Gradients are read before the optimizer steps: accumulated, averaged over processes, put together where
    FSDP2 has them in shards, and clipped. Memory
    does not grow with t: scores come from r×r Grams, the factor pairs go to `spool`, one file a step.
    """

    def __init__(self, settings: Igia, spool: Path | None = None) -> None:
        self.steps = settings.steps
        self.norm = settings.norm
        self.spool = spool
        self.course: list[torch.Tensor] = []
        self.scored: set[str] = set()
        self.adapters: dict[str, LoraLayer] = {}
        self.layer_of: dict[str, int] = {}
        self.num_layers = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.max_steps < MIN_STEPS:
            raise UserError(
                f"the training data gives {state.max_steps} scoring steps, igia needs at least {MIN_STEPS}: "
                "add rows, lower importance.per_device_train_batch_size or raise importance.num_train_epochs"
            )
        if state.max_steps < self.steps:
            log.warning(
                "scoring ends after %d steps, all that the data gives (%d asked)",
                state.max_steps,
                self.steps,
            )
            self.steps = state.max_steps
        # Looked up once: a walk over all modules at each step would cost more than the scores.
        model = kwargs["model"]
        self.adapters = find_adapters(model)
        self.num_layers = len(decoder_layers(model))
        prefix = f"{layers_path(model)}."
        self.layer_of = {path: int(path.removeprefix(prefix).split(".")[0]) for path in self.adapters}

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        pairs = gradient_pairs(self.adapters)
        scores = self._layer_scores(pairs)
        if not scores.isfinite().all():
            raise UserError(_not_finite(kwargs["model"], len(self.course) + 1))
        self.course.append(scores)
        self.scored.update(pairs)
        if self.spool is not None and state.is_world_process_zero:
            write_step(self.spool, len(self.course) - 1, pairs)
        if len(self.course) >= self.steps:
            control.should_training_stop = True

    def _layer_scores(self, pairs: dict[str, FactorPair]) -> torch.Tensor:
        """The step's Σ(∇B·∇A)² of each layer, or Σ‖∇B·∇A‖_F, float64 [L]."""
        scores = torch.zeros(self.num_layers, dtype=torch.float64)
        if not pairs:
            return scores
        squares = [pair.squared_norms() for pair in pairs.values()]
        terms = torch.stack([(s if self.norm == "squared" else s.sqrt()).sum() for s in squares])
        layers = torch.tensor([self.layer_of[path] for path in pairs])
        return scores.index_add_(0, layers, terms.cpu().double())

    def scores(self) -> torch.Tensor:
        """The mean over the recorded steps, float32 [L].

        Raises:
            UserError: every score is zero.
        """
        scores = torch.stack(self.course).mean(dim=0).float()
        if not scores.any():
            raise UserError(
                "every layer's score is zero: no adapter received a gradient; check that "
                "importance.learning_rate is not too small for this dtype"
            )
        return scores


def _not_finite(model: torch.nn.Module, step: int) -> str:
    """Names the damaged weight, or else blames the training: clipping spreads one NaN over all gradients."""
    poisoned = [name for name, weight in model.named_parameters() if not whole(weight.isfinite()).all()]
    if step == 1 and poisoned:
        name = poisoned[0].removeprefix("base_model.model.").replace(".base_layer", "")
        return f"{name} holds values that are not finite: the checkpoint is damaged, load another copy"
    return (
        f"the gradients are not finite at scoring step {step}: lower importance.learning_rate, check the "
        "training data, or set importance.bf16=false"
    )
