"""Fine-tuning on TRL's SFTTrainer, resumable, and back to one plain model.

To add a method: a file here, and a line in TRAININGS.
"""

from depthprune.training.base import Distillation, FineTuning, SelfData, Start, training_dtype
from depthprune.training.full import Full
from depthprune.training.lora import Lora
from depthprune.training.none import NoTraining
from depthprune.training.partial import Partial
from depthprune.training.qlora import QLora
from depthprune.training.trainer import fine_tune, newest_checkpoint, sft_trainer, untouched

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
    "fine_tune",
    "newest_checkpoint",
    "sft_trainer",
    "training_dtype",
    "untouched",
]
