"""Full fine-tuning."""

from typing import ClassVar, Literal

from pydantic import Field

from depthprune.training.base import FineTuning


class Full(FineTuning):
    """Every weight is trained, from float32 master weights."""

    paper: ClassVar[str] = "–"
    method: Literal["full"] = "full"
    learning_rate: float = Field(1e-5, gt=0)
