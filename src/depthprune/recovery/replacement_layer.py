"""Layer replacement (LLM-Streamline, arXiv:2403.19135): one trained layer stands for a block of them."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from depthprune.errors import UserError
from depthprune.recovery.base import Evidence, RecoverySettings
from depthprune.selection import Plan

if TYPE_CHECKING:
    from torch import Tensor, nn

    from depthprune.recovery.block_states import BlockStates


class ReplacementLayer(RecoverySettings):
    """Trains the kept layer f before the removed block so that f(h_f) ≈ h_{f+K+1}, by the mean squared error.

    It starts from its own weights, the first layer's of the window of K + 1. Nothing else changes. The
    trained layer is kept where it lowers the held-out cross-entropy of the pruned model, else the old one.
    """

    needs_calibration: ClassVar[bool] = True
    replaces_block: ClassVar[bool] = True
    paper: ClassVar[str] = "LLM-Streamline (arXiv:2403.19135)"
    method: Literal["replacement-layer"] = "replacement-layer"
    num_train_epochs: int = Field(20, ge=1)
    """A step is one calibration batch (`calibration_samples.batch_size`)."""
    learning_rate: float = Field(2e-4, gt=0)
    min_learning_rate: float = Field(5e-5, ge=0)
    """Where the cosine ends."""
    weight_decay: float = Field(1e-3, ge=0)
    max_grad_norm: float = Field(5.0, gt=0)
    held_out: float = Field(0.1, gt=0, lt=1)
    """The share of the calibration samples that decide whether the trained layer is kept."""
    seed: int = 0
    """Of the order of the batches."""

    @property
    def fewest_samples(self) -> int:
        """Some to train on, some held out."""
        return 2

    def complete(self, plan: Plan, scores: list[float]) -> Plan:
        """Refuses plans that do not remove one block of neighbours with a kept layer before it."""
        if not plan.removes_block:
            raise UserError(
                f"recovery.method=replacement-layer makes one layer of a block of neighbours, and the layers "
                f"{', '.join(map(str, plan.removed))} are none: remove neighbouring layers"
            )
        if plan.removed[0] == 0:
            raise UserError(
                "recovery.method=replacement-layer trains the layer before the removed block, and layer 0 "
                "has none before it: keep layer 0"
            )
        return plan

    def __call__(self, model: "nn.Module", plan: Plan, evidence: Evidence) -> dict[str, Any]:
        """Trains layer f, one before the removed ones."""
        from depthprune.model.anatomy import decoder_layers, unwrap
        from depthprune.recovery.activations import mean_loss
        from depthprune.recovery.block_states import block_states, mean_error
        from depthprune.recovery.combination import kinds
        from depthprune.recovery.held_out import count_samples, split_samples

        first, last = plan.removed[0] - 1, plan.removed[-1]
        layer = decoder_layers(model)[first]
        if len(kinds(model)[first]) > 1:
            raise UserError(
                f"layer {first} of {unwrap(model).config.model_type} shares weights with another layer, "
                "which would change too: choose another block, or another recovery"
            )
        fit, held_out = split_samples(evidence.batches, self.held_out)
        states = block_states(model, fit, first, last)
        held_states = block_states(model, held_out, first, last)
        error, loss = mean_error(layer, held_states), mean_loss(model, held_out, plan.removed)
        before = [parameter.detach().clone() for parameter in layer.parameters()]
        trained, course = self._train(layer, states)
        _set(layer, [weight.to(evidence.dtype or weight.dtype) for weight in trained.parameters()])
        error_after, loss_after = mean_error(layer, held_states), mean_loss(model, held_out, plan.removed)
        better = loss_after < loss  # and not NaN
        if not better:
            _set(layer, before)
        return {
            "changed_layers": [first] if better else [],
            "trained_layer": first,
            "stands_for": [first, *plan.removed],
            "training_error": course,
            "held_out_error": {"before": error, "after": error_after},
            "held_out_loss": {"before": loss, "after": loss_after},
            "samples": {"fit": count_samples(fit), "held_out": count_samples(held_out)},
        }

    def _train(self, layer: "nn.Module", states: "Sequence[BlockStates]") -> "tuple[nn.Module, list[float]]":
        """A trained copy in float32, and the mean squared error of each epoch, taken before each step."""
        import torch

        from depthprune.cost import with_progress

        student = copy.deepcopy(layer).float()
        parameters = [parameter.requires_grad_() for parameter in student.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, self.num_train_epochs * len(states), self.min_learning_rate
        )
        order = torch.Generator().manual_seed(self.seed)
        course = []
        for _ in with_progress(range(self.num_train_epochs), "replacement layer"):
            errors = []
            for i in torch.randperm(len(states), generator=order).tolist():
                error = states[i].error(student)
                error.backward()
                torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                errors.append(error.item())
            course.append(sum(errors) / len(errors))
        return student, course


def _set(layer: "nn.Module", weights: "Sequence[Tensor]") -> None:
    for parameter, weight in zip(layer.parameters(), weights, strict=True):
        parameter.data.copy_(weight.detach())
