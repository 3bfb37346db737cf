"""IGIA (GradPruner, arXiv:2601.19503): the first LoRA gradients say which layers matter for a task."""

import logging
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from depthprune.errors import UserError
from depthprune.importance.base import MetricSettings
from depthprune.importance.factors import FactorPair, adapter_gradients, write_step
from depthprune.model.anatomy import decoder_layers, layers_path
from depthprune.settings import LoraSettings

log = logging.getLogger("depthprune")

MIN_STEPS = 3


class Igia(MetricSettings, LoraSettings):
    """s_j = Σ_{W in layer j} Σ_{kl} F_W[k,l], F_W = (1/t) Σ_i (∇B_i·∇A_i)² over t steps of a LoRA run.

    The defaults are those of the authors' scripts. B starts at zero and the warm-up's first learning rate is
    zero, so the first two products are zero; they count in t, and fewer than three steps are refused.
    """

    needs: ClassVar[Literal["training"]] = "training"
    paper: ClassVar[str] = "GradPruner (arXiv:2601.19503)"
    cost: ClassVar[str] = "t LoRA steps"
    metric: Literal["igia"] = "igia"
    steps: int = Field(40, ge=MIN_STEPS)
    """t, the number of optimizer steps that are read; the learning-rate schedule is that of the whole run."""
    norm: Literal["squared", "frobenius"] = "squared"
    """`squared` is the paper's sum of squares; `frobenius` sums ‖∇B·∇A‖_F, as the authors' code does."""

    num_train_epochs: float = Field(1, gt=0)
    per_device_train_batch_size: int = Field(4, ge=1)
    gradient_accumulation_steps: int = Field(1, ge=1)


class GradientRecorder(TrainerCallback):
    """Scores the layers while a LoRA run trains, and ends the run after t steps.

    Gradients are read before the optimizer steps: accumulated, averaged over processes and clipped. Memory
    does not grow with t: scores come from r×r Grams, the factor pairs go to `spool`, one file a step.
    """

    def __init__(self, settings: Igia, spool: Path | None = None) -> None:
        self.steps = settings.steps
        self.norm = settings.norm
        self.spool = spool
        self.course: list[torch.Tensor] = []
        self.scored: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.max_steps < MIN_STEPS:
            raise UserError(
                f"the training data gives {state.max_steps} scoring step(s), igia needs at least {MIN_STEPS}: "
                "add rows, lower importance.per_device_train_batch_size or raise importance.num_train_epochs"
            )
        if state.max_steps < self.steps:
            log.warning(
                "scoring ends after %d steps, all that the data gives (%d asked)", state.max_steps, self.steps
            )
            self.steps = state.max_steps

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        model = kwargs["model"]
        pairs = dict(adapter_gradients(model))
        self.course.append(self._layer_scores(model, pairs))
        self.scored.update(pairs)
        if self.spool is not None and state.is_world_process_zero:
            write_step(self.spool, len(self.course) - 1, pairs)
        if len(self.course) >= self.steps:
            control.should_training_stop = True

    def _layer_scores(self, model: torch.nn.Module, pairs: dict[str, FactorPair]) -> torch.Tensor:
        prefix = f"{layers_path(model)}."
        device = next(iter(pairs.values())).a.device
        scores = torch.zeros(len(decoder_layers(model)), device=device)
        for path, pair in pairs.items():
            squares = pair.squared_norms()
            scores[int(path.removeprefix(prefix).split(".")[0])] += (
                squares if self.norm == "squared" else squares.sqrt()
            ).sum()
        scores = scores.cpu().double()
        if not scores.isfinite().all():
            layer = int((~scores.isfinite()).nonzero()[0])
            raise UserError(
                f"the gradients are not finite at scoring step {len(self.course) + 1}, in layer {layer}: "
                "lower importance.learning_rate, check the training data, or set importance.bf16=false"
            )
        return scores

    def scores(self) -> torch.Tensor:
        """The mean over the recorded steps, float32 [L]."""
        scores = torch.stack(self.course).mean(dim=0).float()
        if not scores.any():
            raise UserError(
                "every layer's score is zero: no adapter received a gradient; check that importance.learning_rate "
                "is not too small for this dtype"
            )
        return scores
