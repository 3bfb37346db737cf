"""What every way of fine-tuning shares: the Trainer's settings, the loss, the rows, the start."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from depthprune.errors import UserError
from depthprune.settings import LoraSettings, Settings, TrainerSettings

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Start:
    """The checkpoint that a training begins with, and where and how it is loaded."""

    path: str | Path
    dtype: "torch.dtype"
    """Of the checkpoint that the run writes."""
    device: "torch.device"
    trust_remote_code: bool = False

    def load(self, dtype: "torch.dtype", **options: Any) -> "PreTrainedModel":
        """The model in `dtype`; `options` go to `from_pretrained`."""
        from depthprune.model.loading import load_model

        return load_model(self.path, dtype, self.device, self.trust_remote_code, **options)


class Distillation(Settings):
    """How `loss: distill` follows the dense model: (1 − weight)·CE + weight·τ²·KL(teacher ‖ student)."""

    top_k: int = Field(64, ge=1)
    """The teacher's likeliest tokens that are kept, at each position; all others are one outcome together."""
    temperature: float = Field(1.0, gt=0)
    """τ, that both models' logits are divided by."""
    weight: float = Field(0.5, gt=0, le=1)


class SelfData(Settings):
    """How `data: self` lets the dense model answer the user's prompts."""

    max_new_tokens: int = Field(256, ge=1)
    temperature: float = Field(0.0, ge=0)
    """0 is greedy decoding; above it tokens are drawn, by the recipe's seed."""
    batch_size: int = Field(16, ge=1)
    """Counted as `evaluation.batch_size`: sequences of 512 tokens."""


class FineTuning(TrainerSettings):
    """A way to tune the model: settings, which weights train, and how they become one plain model again."""

    paper: ClassVar[str]
    method: str

    loss: Literal["ce", "distill"] = "ce"
    """`distill` adds the divergence from the dense model's predictions to the cross-entropy."""
    distill: Distillation = Distillation()
    data: Literal["given", "self"] = "given"
    """`self` trains on the dense model's own answers to the prompts of the training data."""
    self_data: SelfData = SelfData()
    logging_steps: float = Field(0.01, gt=0)
    """Below 1 a fraction of all steps."""
    save_steps: float = Field(0.1, gt=0)
    """A checkpoint to resume from, this often; below 1 a fraction of all steps."""
    report_to: str = "none"
    """Passed through to the Trainer: tensorboard, wandb, trackio, … ."""

    def check(self, model: "nn.Module", layers: int) -> None:
        """Raises `UserError` where this cannot train `model`, of which `layers` layers will be left.

        Called before anything is computed; a model on the meta device will do.
        """

    def check_settings(self, prunes: bool) -> None:
        """Raises `UserError` for settings that make no sense together, or where nothing is pruned."""
        for choice, chosen, name in (("loss", "distill", "distill"), ("data", "self", "self_data")):
            if getattr(self, choice) == chosen:
                if not prunes:
                    raise UserError(
                        f"training.{choice}={chosen} learns from the dense model, and selection.method=none "
                        "leaves the model dense: it would learn from itself"
                    )
            elif getattr(self, name) != type(getattr(self, name))():
                raise UserError(
                    f"training.{name} has settings and training.{choice} is not {chosen}: choose it"
                )

    def load(self, start: Start) -> "PreTrainedModel":
        """The model with the weights to train in float32, the frozen ones as `training_dtype` has it."""
        return start.load(training_dtype(self, start.dtype))

    def choose_trained(self, model: "PreTrainedModel") -> None:
        """Sets `requires_grad` of every weight; adapters come later. By default all train."""
        model.requires_grad_(True)

    def plain(self, trained: Any, start: Start) -> "PreTrainedModel":
        """The trained model without wrapper and adapters."""
        return trained


def training_dtype(settings: TrainerSettings, checkpoint: "torch.dtype") -> "torch.dtype":
    """The dtype to load weights in for training.

    Trained weights are float32, since bf16 loses updates of a small learning rate. Those that LoRA leaves
    alone are as `frozen_dtype` says.
    """
    import torch

    return frozen_dtype(checkpoint) if isinstance(settings, LoraSettings) else torch.float32


def frozen_dtype(checkpoint: "torch.dtype") -> "torch.dtype":
    """Of weights that only run: the checkpoint's own on an accelerator, float32 on a CPU."""
    import torch

    return checkpoint if torch.accelerator.is_available() else torch.float32


def uses_bf16(settings: TrainerSettings) -> bool:
    """Whether training runs under bfloat16 autocast."""
    if settings.bf16 is not None:
        return settings.bf16
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
