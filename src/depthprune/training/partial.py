"""Partial fine-tuning (Reassessing Layer Pruning, openreview 04Tfwy3LLC): the end of the model learns."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from depthprune.errors import UserError
from depthprune.training.base import FineTuning, Start, uses_bf16

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class Partial(FineTuning):
    """The final norm, the head and the last n layers train; everything before them is frozen.

    The defaults are the paper's.
    """

    paper: ClassVar[str] = "Reassessing Layer Pruning (openreview 04Tfwy3LLC)"
    method: Literal["partial"] = "partial"
    last_layers: int = Field(3, ge=0)
    """n, of the pruned model's layers."""
    tied: Literal["train", "untie", "freeze"] = "train"
    """Where head and input embedding are one tensor: it trains; or the head gets its own copy, which trains
    alone; or neither trains."""

    learning_rate: float = Field(1e-5, gt=0)
    num_train_epochs: float = Field(2, gt=0)
    warmup_steps: float = Field(100, ge=0)
    max_length: int = Field(256, ge=8)

    def check(self, model: "nn.Module", layers: int) -> None:
        from depthprune.model.anatomy import final_norm

        final_norm(model)
        if self.last_layers > layers:
            raise UserError(
                f"training.last_layers is {self.last_layers} and {layers} layers are left to train: "
                "lower it, or remove fewer layers"
            )

    def load(self, start: Start) -> "PreTrainedModel":
        import torch

        # Without autocast the frozen part's bfloat16 would meet the trained part's float32 in one product.
        mixed = torch.accelerator.is_available() and uses_bf16(self)
        return start.load(start.dtype if mixed else torch.float32)

    def choose_trained(self, model: "PreTrainedModel") -> None:
        from depthprune.model.anatomy import tied_embeddings

        if tied_embeddings(model) and self.tied == "untie":
            untie_embeddings(model)
        model.requires_grad_(False)
        for module in self._trained_modules(model):
            for parameter in module.parameters():
                parameter.data = parameter.data.float()
                parameter.requires_grad = True

    def trained_parameters(self, model: "nn.Module") -> int:
        """How many parameters train, and so have two moments in the optimizer."""
        trained = {parameter for part in self._trained_modules(model) for parameter in part.parameters()}
        return sum(parameter.numel() for parameter in trained)

    def _trained_modules(self, model: "nn.Module") -> "list[nn.Module]":
        from depthprune.model.anatomy import decoder_layers, final_norm, lm_head, tied_embeddings

        layers = list(decoder_layers(model))
        head = [] if tied_embeddings(model) and self.tied == "freeze" else [lm_head(model)]
        return [final_norm(model), *head, *layers[len(layers) - self.last_layers :]]


def untie_embeddings(model: "PreTrainedModel") -> None:
    """Gives the head its own copy of the tensor that it shares with the input embedding."""
    from torch import nn

    from depthprune.model.anatomy import lm_head
    from depthprune.model.depth_config import text_config

    head: Any = lm_head(model)
    head.weight = nn.Parameter(head.weight.detach().clone())
    for config in (model.config, text_config(model.config)):
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
