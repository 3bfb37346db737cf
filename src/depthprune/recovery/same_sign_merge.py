"""Same-sign merging (GradPruner, arXiv:2601.19503): a removed layer's strongest weights live on."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from depthprune.errors import UserError
from depthprune.recovery.base import Evidence, RecoverySettings
from depthprune.selection import Plan, count_from_ratio

if TYPE_CHECKING:
    import torch


class SameSignMerge(RecoverySettings):
    """W_k ← W_k + Σ_r Ŵ_r ⊙ [sign(W_r) = sign(W_k)], Ŵ_r the top p % of W_r by F_{W_r}.

    k is the nearest kept layer before r. Norms and biases stay. A removed layer with no kept one before it
    leaves nothing.
    """

    needs_gradients: ClassVar[bool] = True
    paper: ClassVar[str] = "GradPruner (arXiv:2601.19503)"
    method: Literal["same-sign-merge"] = "same-sign-merge"
    layers: Literal["beyond-30%", "all", "none"] | int = "beyond-30%"
    """How many of the removed layers are merged, most important first; `beyond-30%` is K − round(0.3 L)."""
    keep_top: float = Field(0.2, gt=0, le=1)
    """p: the share of each weight's elements that is merged."""

    def complete(self, plan: Plan, scores: list[float]) -> Plan:
        """Names the layers to merge, the highest-scored of the removed ones, and the kept layer of each."""
        count = self._count(plan)
        if count == 0:
            why = (
                "recovery.layers is none" if self.layers in ("none", 0) else "no layer beyond 30 % is removed"
            )
            return plan.merging({}, [f"Nothing is merged: {why}."])
        chosen = sorted(plan.removed, key=lambda i: (-scores[i], i))[:count]
        notes, merged = [], {}
        for layer in sorted(chosen):
            before = [k for k in plan.kept if k < layer]
            if before:
                merged[layer] = before[-1]
            else:
                notes.append(f"Layer {layer} has no kept layer before it and leaves nothing behind.")
        if len(merged) > 0.1 * plan.num_layers:
            notes.append(
                f"{len(merged)} of {plan.num_layers} layers are merged; the paper's evidence ends near 10 %."
            )
        return plan.merging(merged, notes)

    def _count(self, plan: Plan) -> int:
        removed = len(plan.removed)
        if self.layers == "beyond-30%":
            return max(0, removed - count_from_ratio(0.3, plan.num_layers))
        if self.layers == "all":
            return removed
        if self.layers == "none":
            return 0
        if not 0 <= self.layers <= removed:
            raise UserError(
                f"recovery.layers is {self.layers} and {removed} layers are removed: merge 0 to {removed}"
            )
        return self.layers

    def parts(self, plan: Plan) -> list[tuple[Plan, set[int]]]:
        """A kept layer at a time, with those that are merged into it."""
        found = []
        for kept in sorted(set(plan.merged_into.values())):
            part = {gone: into for gone, into in plan.merged_into.items() if into == kept}
            found.append((replace(plan, merged_into=part), {kept, *part}))
        return found or [(plan, set())]

    def __call__(self, model: "torch.nn.Module", plan: Plan, evidence: Evidence) -> dict[str, Any]:
        """Merges in place, one linear at a time, from the factor pairs that the scoring spooled."""
        gradients, into = evidence.gradients, sorted(set(plan.merged_into.values()))
        if not into:
            return {"changed_layers": [], "merged": []}
        assert gradients is not None, "a plan with merged layers comes from a metric that spools gradients"
        from depthprune.recovery.strongest import merge_strongest

        report = []
        for kept in into:
            sources = sorted(gone for gone, into in plan.merged_into.items() if into == kept)
            report += merge_strongest(model, kept, sources, gradients, self.keep_top)
        return {"changed_layers": into, "merged": report}
