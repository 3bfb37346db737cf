"""No training."""

from typing import ClassVar, Literal

from depthprune.settings import Settings


class NoTraining(Settings):
    """The pruned model is the result."""

    paper: ClassVar[str] = "–"
    method: Literal["none"] = "none"
