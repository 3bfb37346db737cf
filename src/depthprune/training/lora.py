"""Low-rank adapters (LoRA, arXiv:2106.09685)."""

import logging
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from depthprune.settings import LoraSettings
from depthprune.training.base import FineTuning, Start

if TYPE_CHECKING:
    from peft import LoraConfig
    from torch import nn
    from transformers import PreTrainedModel

log = logging.getLogger("depthprune")


class Lora(LoraSettings, FineTuning):
    """Low-rank adapters on every linear of the layers, merged into the model at the end."""

    paper: ClassVar[str] = "LoRA (arXiv:2106.09685)"
    method: Literal["lora", "qlora"] = "lora"

    def choose_trained(self, model: "PreTrainedModel") -> None:
        model.requires_grad_(False)

    def plain(self, trained: Any, start: Start) -> "PreTrainedModel":
        return trained.merge_and_unload()


def lora_config(model: "nn.Module", settings: LoraSettings) -> "LoraConfig":
    """PEFT's config of adapters on every linear and every stacked expert of the layers, routers excluded."""
    from peft import LoraConfig

    from depthprune.model.anatomy import lora_targets

    targets = lora_targets(model)
    if targets.without_adapter:
        log.warning("no adapter on: %s", "; ".join(targets.without_adapter))
    dropout = settings.lora_dropout
    if targets.target_parameters and dropout:
        log.warning(
            "LoRA dropout is off: PEFT has none for stacked experts (%s)", targets.target_parameters[0]
        )
        dropout = 0.0
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=dropout,
        target_modules=targets.target_modules,
        target_parameters=targets.target_parameters or None,
    )
