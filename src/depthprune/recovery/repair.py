"""Repairs of a pruned model, one down projection after the other, each chosen by the held-out loss."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from depthprune.cost import with_progress
from depthprune.recovery.activations import (
    Batch,
    layer_output,
    mean_loss,
    mean_outputs,
    output_and_contribution,
)
from depthprune.recovery.base import Evidence
from depthprune.recovery.down_projection import DownProjection
from depthprune.recovery.held_out import count_samples, split_samples
from depthprune.recovery.least_squares import Moments
from depthprune.selection import Plan


@dataclass(frozen=True)
class Candidate:
    """A change Δ = W' − I, [d, d], with the strength of the ridge that it comes from: λ = ρ·tr(YYᵀ)/d."""

    change: Tensor
    penalty: float
    rho: float


class Repairs:
    """The repairs made so far. The layers to be removed are still there, and skipped where not wanted.

    Attributes:
        fit, held_out: the calibration samples that maps are fitted on, and those that choose among them.
        drift_before: δ of each kept layer as the plan leaves it.
    """

    def __init__(self, model: nn.Module, plan: Plan, evidence: Evidence, held_out: float) -> None:
        self.model, self.plan, self.batches, self.dtype = model, plan, evidence.batches, evidence.dtype
        self.fit, self.held_out = split_samples(self.batches, held_out)
        self._originals: dict[int, tuple[DownProjection, list[Tensor]]] = {}
        self._rows: list[dict[str, Any]] = []
        self._means = mean_outputs(model, self.batches)
        self.drift_before = self.drift()
        self._loss_before = self._loss = mean_loss(model, self.held_out, plan.removed)

    def drift(self) -> list[float]:
        """δ_i = ‖E[h_{i+1}] − E[h'_{i+1}]‖₂ of each kept layer (eq. 8), over all calibration samples."""
        now = mean_outputs(self.model, self.batches, self.plan.removed)
        return (self._means - now).norm(dim=1)[list(self.plan.kept)].tolist()

    def pairs(
        self, down: DownProjection, target: int, batches: Sequence[Batch]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """E and Y of each batch, [tokens, d]: what the layer lacks of the whole model's `target`, and has."""
        for batch in batches:
            wanted = self._whole_output(target, batch)
            output, contribution = output_and_contribution(self.model, down, batch, self.plan.removed)
            yield wanted - output, contribution

    def _whole_output(self, i: int, batch: Batch) -> Tensor:
        """h_{i+1} of the model as it was: no layer skipped, and repaired weights put back for a while."""
        with ExitStack() as as_it_was:
            for down, tensors in self._originals.values():
                as_it_was.enter_context(down.holding(tensors))
            return layer_output(self.model, i, batch)

    def choose(self, down: DownProjection, target: int, candidates: Sequence[Candidate]) -> None:
        """Folds in the candidate with the lowest held-out loss, or none where all of them raise it.

        Losses are those of the weights as they are stored, rounded to their dtype.
        """
        moments = Moments(self.pairs(down, target, self.held_out))
        row: dict[str, Any] = {"layer": down.layer, "target": target, "rho": None, "lambda": None}
        row["candidates"] = [{"rho": None, "held_out_loss": self._loss, "held_out_error": 1.0}]
        best = [parameter.data for parameter in down.parameters]
        self._originals.setdefault(down.layer, (down, best))
        for candidate in with_progress(candidates, f"repair of layer {down.layer}"):
            folded = down.folded(candidate.change, self.dtype)
            with down.holding(folded):
                loss = mean_loss(self.model, self.held_out, self.plan.removed)
            error = moments.relative_error(candidate.change)
            row["candidates"].append({"rho": candidate.rho, "held_out_loss": loss, "held_out_error": error})
            if loss < self._loss:
                self._loss, best = loss, folded
                row |= {"rho": candidate.rho, "lambda": candidate.penalty}
        down.hold(best)
        self._rows.append(row)

    def report(self) -> dict[str, Any]:
        """What was done, for `recovery.json`."""
        return {
            "changed_layers": sorted({row["layer"] for row in self._rows if row["rho"] is not None}),
            "repairs": self._rows,
            "drift": {"layers": list(self.plan.kept), "before": self.drift_before, "after": self.drift()},
            "held_out_loss": {"before": self._loss_before, "after": self._loss},
            "samples": {"fit": count_samples(self.fit), "held_out": count_samples(self.held_out)},
        }
