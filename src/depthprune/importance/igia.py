"""IGIA (GradPruner, arXiv:2601.19503): the first LoRA gradients say which layers matter for a task.

The gradients are read by `recorder.GradientRecorder` while the adapters train.
"""

from typing import ClassVar, Literal

from pydantic import Field

from depthprune.importance.base import MetricSettings
from depthprune.settings import LoraSettings

MIN_STEPS = 3


class Igia(MetricSettings, LoraSettings):
    """s_j = Σ_{W in layer j} Σ_{kl} F_W[k,l], F_W = (1/t) Σ_i (∇B_i·∇A_i)² over t steps of a LoRA run.

    The defaults are those of the authors' scripts. B starts at zero and the warm-up's first learning rate is
    zero, so the first two products are zero; they count in t, and fewer than three steps are refused.
    """

    needs: ClassVar[Literal["training"]] = "training"
    takes_offloaded: ClassVar[bool] = False
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
