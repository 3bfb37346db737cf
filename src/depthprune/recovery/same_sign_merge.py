"""Same-sign merging (GradPruner, arXiv:2601.19503): a removed layer's strongest weights live on."""

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from depthprune.errors import UserError
from depthprune.importance.factors import mean_squared_gradient
from depthprune.model.anatomy import (
    TRANSPOSED_EXPERTS,
    LinearWeight,
    decoder_layers,
    layers_path,
    linear_weights,
)
from depthprune.recovery.base import Evidence, RecoverySettings
from depthprune.selection import Plan, count_from_ratio


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

    @torch.no_grad()
    def __call__(self, model: torch.nn.Module, plan: Plan, evidence: Evidence) -> dict[str, Any]:
        """Merges in place, one linear at a time, from the factor pairs that the scoring spooled."""
        gradients, into = evidence.gradients, sorted(set(plan.merged_into.values()))
        if not into:
            return {"changed_layers": [], "merged": []}
        assert gradients is not None, "a plan with merged layers comes from a metric that spools gradients"
        layers = decoder_layers(model)
        report = []
        for kept in into:
            sources = sorted(gone for gone, into in plan.merged_into.items() if into == kept)
            report += self._merge_into(layers, layers_path(model), kept, sources, gradients)
        return {"changed_layers": into, "merged": report}

    def _merge_into(
        self, layers: torch.nn.ModuleList, path: str, kept: int, sources: list[int], gradients: Path
    ) -> list[dict[str, Any]]:
        weights = {source: linear_weights(layers[source]) for source in sources}
        report = {
            source: {"layer": source, "into": kept, "elements": 0, "added": 0, "skipped": []}
            for source in sources
        }
        for name, target in linear_weights(layers[kept]).items():
            # Several sources are summed in fp32 and rounded once: adding never flips a sign of W_k.
            total = target.parameter.float()
            for source in sources:
                weight = weights[source].get(name)
                row: Any = report[source]
                gradient = None
                if weight is not None and weight.parameter.shape == target.parameter.shape:
                    gradient = _igia_matrix(gradients, f"{path}.{source}", layers[source], weight)
                if weight is None or gradient is None:
                    row["skipped"].append(name)
                    continue
                mask = top_fraction(gradient, self.keep_top)
                row["elements"] += int(mask.sum())
                mask &= torch.sign(weight.parameter) == torch.sign(target.parameter)
                row["added"] += int(mask.sum())
                total = torch.where(mask, total + weight.parameter.float(), total)
            target.parameter.copy_(total)
        return list(report.values())


def _igia_matrix(
    gradients: Path, path: str, layer: torch.nn.Module, weight: LinearWeight
) -> torch.Tensor | None:
    """F_W of one weight of the layer at `path`, laid out as the weight is stored; None without adapter."""
    name = weight.name.removesuffix(".weight")
    matrix = mean_squared_gradient(gradients, f"{path}.{name}", weight.experts, weight.parameter.device)
    holder = type(layer.get_submodule(weight.name.rpartition(".")[0])).__name__
    # PEFT takes experts that do not say how they are stored for [E, out, in], and adapts them as such.
    product_as_stored = not weight.transposed or holder in TRANSPOSED_EXPERTS
    return matrix if matrix is None or product_as_stored else matrix.mT


def top_fraction(values: torch.Tensor, fraction: float) -> torch.Tensor:
    """A mask of exactly round(fraction × n) of the largest elements of each matrix; ties go to the first.

    By selection instead of a sort. `values` is [out, in], or [E, out, in] with each expert on its own; a
    matrix of zeros (an expert that saw no token) keeps nothing.
    """
    matrices = values.reshape(-1, values.shape[-2] * values.shape[-1])
    count = max(1, count_from_ratio(fraction, matrices.shape[1]))
    mask = torch.zeros_like(matrices, dtype=torch.bool)
    for row, flat in zip(mask, matrices, strict=True):
        if not flat.any():
            continue
        threshold = flat.kthvalue(flat.numel() - count + 1).values
        row |= flat > threshold
        tied = (flat == threshold).nonzero().squeeze(1)[: count - int(row.sum())]
        row[tied] = True
    return mask.reshape(values.shape)
