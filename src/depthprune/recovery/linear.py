"""A linear map in place of removed layers (ReplaceMe, arXiv:2505.02819)."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from depthprune.errors import UserError
from depthprune.recovery.base import Evidence, RecoverySettings
from depthprune.recovery.places import before_gaps
from depthprune.selection import Plan

if TYPE_CHECKING:
    import torch

    from depthprune.recovery.down_projection import DownProjection
    from depthprune.recovery.repair import Candidate, Repairs


class Linear(RecoverySettings):
    """T = argmin ‖T M + Y − M − Z‖² + α‖T‖², W_down ← T W_down, in the layer before a removed block.

    M is the down projection's part in that layer's output Y, Z the output of the block's last layer. The
    authors fold T in whatever it does; here it has to lower the loss of held-out calibration samples.
    """

    needs_calibration: ClassVar[bool] = True
    takes_offloaded: ClassVar[bool] = True
    paper: ClassVar[str] = "ReplaceMe (arXiv:2505.02819)"
    cost: ClassVar[str] = "3 forward passes, and about 2 a block"
    method: Literal["linear"] = "linear"
    alpha: float = Field(0, ge=0)
    """The strength of the ridge, on sums over tokens."""
    blocks: Literal["one", "each"] = "one"
    """`one`: the removed layers have to be consecutive. `each`: a map for every block, shallow to deep."""
    held_out: float = Field(0.25, gt=0, lt=1)
    """The share of the calibration samples that decides whether a map stays."""

    def complete(self, plan: Plan, scores: list[float]) -> Plan:
        """Refuses gaps between the removed layers, unless each block is to be repaired, and layer 0."""
        if plan.removed[0] == 0:
            raise UserError(
                "recovery.method is linear and layer 0 is removed, with no layer before it to take the map: "
                "set selection.protect=0"
            )
        if self.blocks == "one" and not plan.removes_block:
            layers = ", ".join(map(str, plan.removed))
            raise UserError(
                f"recovery.method is linear and the removed layers {layers} are not consecutive: "
                "set selection.method=contiguous or recovery.blocks=each"
            )
        return plan

    def check(self, model: "torch.nn.Module") -> None:
        """Refuses models in which no layer's down projection takes a map."""
        from depthprune.recovery.down_projection import first_that_takes_a_map

        first_that_takes_a_map(model)

    def __call__(self, model: "torch.nn.Module", plan: Plan, evidence: Evidence) -> dict[str, Any]:
        """Repairs in place. Raises `UserError` for a layer before a block that takes no map."""
        import torch

        from depthprune.recovery.down_projection import DownProjection, probe
        from depthprune.recovery.repair import Repairs

        places = []
        for i, target in before_gaps(plan).items():
            found = probe(model, i)
            if not isinstance(found, DownProjection):
                raise UserError(
                    f"layer {i}, before removed ones, takes no linear map: {found}; remove others"
                )
            places.append((found, target))
        with torch.no_grad():
            repairs = Repairs(model, plan, evidence, self.held_out)
            for down, target in places:
                repairs.choose(down, target, [self._candidate(repairs, down, target)])
            return {"solver": "closed-form", **repairs.report()}

    def _candidate(self, repairs: "Repairs", down: "DownProjection", target: int) -> "Candidate":
        from depthprune.recovery.least_squares import Moments, Ridge, singular
        from depthprune.recovery.repair import Candidate, normed_candidate

        mend = "give more samples, or a recovery.alpha above 0"
        if down.norm is not None:
            fitting = repairs.through_norm(down, target)
            if fitting.is_singular and self.alpha * fitting.scale == 0:
                raise singular(fitting.tokens, len(fitting.start), down.layer, mend)
            return normed_candidate(fitting, self.alpha)
        ridge = Ridge(Moments(repairs.pairs(down, target, repairs.fit)))
        if ridge.is_singular and self.alpha * ridge.moments.scale == 0:
            raise singular(ridge.moments.tokens, len(ridge.values), down.layer, mend)
        return Candidate(ridge.toward_zero(self.alpha), self.alpha, self.alpha / ridge.moments.scale)
