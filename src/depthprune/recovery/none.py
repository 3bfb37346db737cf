"""No recovery: the layers are cut and nothing else changes."""

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from depthprune.recovery.base import Evidence, RecoverySettings
from depthprune.selection import Plan

if TYPE_CHECKING:
    import torch


class NoRecovery(RecoverySettings):
    """Leaves the kept layers as they are."""

    takes_pairs: ClassVar[bool] = True
    takes_offloaded: ClassVar[bool] = True
    paper: ClassVar[str] = "–"
    method: Literal["none"] = "none"

    def parts(self, plan: Plan) -> list[tuple[Plan, set[int]]]:
        """Reads no layer."""
        return [(plan, set())]

    def __call__(self, model: "torch.nn.Module", plan: Plan, evidence: Evidence) -> dict[str, Any]:
        """Changes nothing."""
        return {"changed_layers": []}
