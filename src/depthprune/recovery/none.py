"""No recovery: the layers are cut and nothing else changes."""

from typing import Any, ClassVar, Literal

import torch

from depthprune.recovery.base import Evidence, RecoverySettings
from depthprune.selection import Plan


class NoRecovery(RecoverySettings):
    """Leaves the kept layers as they are."""

    paper: ClassVar[str] = "–"
    method: Literal["none"] = "none"

    def __call__(self, model: torch.nn.Module, plan: Plan, evidence: Evidence) -> dict[str, Any]:
        """Changes nothing."""
        return {"changed_layers": []}
