"""Ways of fine-tuning. To add one: a file here, and a line in TRAININGS; `trainer` runs them."""

from depthprune.training.base import Distillation, FineTuning, SelfData, Start
from depthprune.training.full import Full
from depthprune.training.lora import Lora
from depthprune.training.none import NoTraining
from depthprune.training.partial import Partial
from depthprune.training.qlora import QLora

TRAININGS: dict[str, type[FineTuning] | type[NoTraining]] = {
    "lora": Lora,
    "qlora": QLora,
    "full": Full,
    "partial": Partial,
    "none": NoTraining,
}

__all__ = [
    "TRAININGS",
    "Distillation",
    "FineTuning",
    "Full",
    "Lora",
    "NoTraining",
    "Partial",
    "QLora",
    "SelfData",
    "Start",
]
