"""What the recoveries share: they change weights, on the whole model, before the layers are cut."""

from pathlib import Path
from typing import ClassVar

from depthprune.selection import Plan
from depthprune.settings import Settings


class RecoverySettings(Settings):
    """A recovery: its settings, and what it reads besides the model.

    `plan_merges(plan, scores)` says, before any weight is touched, which removed layers go into which kept
    ones; `recovery(model, plan, gradients)` changes the whole model in place and returns a report for the
    run's artifacts. The layers are removed afterwards.
    """

    needs_gradients: ClassVar[bool] = False
    paper: ClassVar[str]

    def plan_merges(self, plan: Plan, scores: list[float]) -> Plan:
        """The plan with `merged_into` filled in, for recoveries that merge layers."""
        return plan


GradientFolder = Path | None
