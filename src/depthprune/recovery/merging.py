"""What the recoveries share that choose the layers themselves and merge them into others."""

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

from depthprune.recovery.base import Evidence, RecoverySettings
from depthprune.selection import Plan

if TYPE_CHECKING:
    from torch import nn

    from depthprune.recovery.combination import WeightsOf


class Merging(RecoverySettings):
    """`choose` finds which layers become one, and the plan holds what each is made of."""

    needs_calibration: ClassVar[bool] = True
    decides: ClassVar[bool] = True
    takes_plans: ClassVar[bool] = False

    @property
    @abstractmethod
    def weights_of(self) -> "WeightsOf":
        """Which weights of a layer are merged."""

    def __call__(self, model: "nn.Module", plan: Plan, evidence: Evidence) -> dict[str, Any]:
        """Merges as the plan says."""
        from depthprune.recovery.combination import merge

        merge(model, plan.combined, self.weights_of)
        return {
            "changed_layers": sorted(plan.combined),
            "combined": plan.combined,
            "search": list(plan.search),
        }
