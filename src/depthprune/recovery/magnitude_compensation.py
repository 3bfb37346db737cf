"""Magnitude compensation (Prune&Comp, arXiv:2507.18212): the stream is as long behind a gap as it was."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from depthprune.recovery.base import Evidence, RecoverySettings
from depthprune.selection import Plan

if TYPE_CHECKING:
    import torch


class MagnitudeCompensation(RecoverySettings):
    """x ← α x at each gap, α = exp(E_t[ln ‖after the gap‖ − ln ‖before it‖]) of the whole model.

    Folded downstream: what every later layer adds to the stream is divided by α, which is the same for heads
    that read the stream through a norm, tied ones too. A gap's factor has to lower the held-out loss.
    """

    needs_calibration: ClassVar[bool] = True
    paper: ClassVar[str] = "Prune&Comp (arXiv:2507.18212)"
    cost: ClassVar[str] = "1 forward pass, and about 1 a gap"
    method: Literal["magnitude-compensation"] = "magnitude-compensation"
    held_out: float = Field(0.25, gt=0, lt=1)
    """The share of the calibration samples that decides whether a factor stays."""

    def check(self, model: "torch.nn.Module") -> None:
        """Refuses models whose layers or head read more of the stream than its direction."""
        from depthprune.recovery.stretch import check_stretches

        check_stretches(model)

    def __call__(self, model: "torch.nn.Module", plan: Plan, evidence: Evidence) -> dict[str, Any]:
        """Divides the kept layers' outputs in place."""
        from depthprune.recovery.activations import mean_loss
        from depthprune.recovery.held_out import count_samples, split_samples
        from depthprune.recovery.stretch import fold, gap_factors, log_norms, stretched

        fit, held_out = split_samples(evidence.batches, self.held_out)
        before = loss = mean_loss(model, held_out, plan.removed)
        chosen: dict[int, float] = {}
        rows = []
        for gap, factor in gap_factors(log_norms(model, fit), plan.removed).items():
            with stretched(model, {**chosen, gap: factor}):
                after = mean_loss(model, held_out, plan.removed)
            rows.append({"gap": gap, "factor": factor, "held_out_loss": after, "kept": after < loss})
            if after < loss:
                loss, chosen[gap] = after, factor
        return {
            "changed_layers": fold(model, chosen, plan.removed),
            "stretches": rows,
            "held_out_loss": {"before": before, "after": loss},
            "samples": {"fit": count_samples(fit), "held_out": count_samples(held_out)},
        }
