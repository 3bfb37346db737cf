"""Repairs of a pruned model, one down projection after the other, each chosen by the held-out loss."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.cost import with_progress
from depthprune.model.walk import in_step
from depthprune.recovery.activations import (
    Batch,
    layer_outputs,
    mean_loss,
    mean_outputs,
    outputs_and_contributions,
)
from depthprune.recovery.base import Evidence
from depthprune.recovery.down_projection import DownProjection
from depthprune.recovery.held_out import count_samples, split_samples
from depthprune.recovery.least_squares import Moments
from depthprune.recovery.through_norm import ThroughNorm, held_if_small, squared_error
from depthprune.selection import Plan


@dataclass(frozen=True)
class Candidate:
    """A change Δ = W' − I, [d, d], with the strength of the ridge that it comes from, λ = ρ·tr(YYᵀ)/d.

    Attributes:
        gain: of the norm after it, where there is one.
    """

    change: Tensor
    penalty: float
    rho: float
    gain: Tensor | None = None


def normed_candidate(fitting: ThroughNorm, penalty: float) -> Candidate:
    """The map and the gain for λ = `penalty`."""
    fit = fitting.fit(penalty)
    return Candidate((fit.weight - fitting.start).mT, penalty, penalty / fitting.scale, fit.gain)


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
        for wanted, output, contribution in self._sides(down, target, batches):
            yield wanted - output, contribution

    def _sides(
        self, down: DownProjection, target: int, batches: Sequence[Batch]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Of each batch what the whole model gives at `target`, and output and contribution of the layer."""
        for group in in_step(self.model, batches):
            wanted = self._whole_outputs(target, group)
            found = outputs_and_contributions(self.model, down, group, self.plan.removed)
            for want, (output, contribution) in zip(wanted, found, strict=True):
                yield want, output, contribution

    def normed_tokens(
        self, down: DownProjection, target: int, batches: Sequence[Batch]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Y, what the norm after it should give, [tokens, d] each, and the tokens' weights, of each batch.

        A token weighs 1/‖h‖², h what the layer's output should be: the first token of a sample often carries
        a massive activation, which would rule every sum.
        """
        after = down.norm
        assert after is not None
        for wanted, output, contribution in self._sides(down, target, batches):
            wanted = wanted.double()
            now = after.norm(contribution.double())
            yield contribution, (wanted - output) / after.multiplier + now, 1 / wanted.square().sum(-1)

    def through_norm(self, down: DownProjection, target: int) -> ThroughNorm:
        """The fit of a map and a gain, for a down projection with a norm after it."""
        assert down.norm is not None
        norm = down.norm.norm
        start = torch.eye(len(norm.gain), dtype=torch.float32, device=norm.gain.device)
        tokens = held_if_small(lambda: self.normed_tokens(down, target, self.fit))
        return ThroughNorm(tokens, start, norm)

    def _whole_outputs(self, i: int, batches: Sequence[Batch]) -> list[Tensor]:
        """h_{i+1} of the model as it was: no layer skipped, and repaired weights put back for a while."""
        with ExitStack() as as_it_was:
            for down, tensors in self._originals.values():
                as_it_was.enter_context(down.holding(tensors))
            return list(layer_outputs(self.model, i, batches))

    def choose(self, down: DownProjection, target: int, candidates: Sequence[Candidate]) -> None:
        """Folds in the candidate with the lowest held-out loss, or none where all of them raise it.

        Losses are those of the weights as they are stored, rounded to their dtype.
        """
        error_of = self._held_out_error(down, target)
        row: dict[str, Any] = {"layer": down.layer, "target": target, "rho": None, "lambda": None}
        row["candidates"] = [{"rho": None, "held_out_loss": self._loss, "held_out_error": 1.0}]
        best = down.values()
        self._originals.setdefault(down.layer, (down, best))
        for candidate in with_progress(candidates, f"repair of layer {down.layer}"):
            folded = down.folded(candidate.change, self.dtype, candidate.gain)
            with down.holding(folded):
                loss = mean_loss(self.model, self.held_out, self.plan.removed)
            row["candidates"].append(
                {"rho": candidate.rho, "held_out_loss": loss, "held_out_error": error_of(candidate)}
            )
            if loss < self._loss:
                self._loss, best = loss, folded
                row |= {"rho": candidate.rho, "lambda": candidate.penalty}
        down.hold(best)
        self._rows.append(row)

    def _held_out_error(self, down: DownProjection, target: int) -> Callable[[Candidate], float]:
        """What share of the layer's error a candidate leaves on the held-out samples, 1 for no change."""
        if down.norm is None:
            moments = Moments(self.pairs(down, target, self.held_out))
            return lambda candidate: moments.relative_error(candidate.change)
        present, tokens = (
            down.norm.norm,
            held_if_small(lambda: self.normed_tokens(down, target, self.held_out)),
        )
        before = squared_error(tokens, present)

        def relative_error(candidate: Candidate) -> float:
            norm = present if candidate.gain is None else replace(present, gain=candidate.gain)
            return squared_error(tokens, norm, candidate.change) / before if before else 1.0

        return relative_error

    def report(self) -> dict[str, Any]:
        """What was done, for `recovery.json`."""
        return {
            "changed_layers": sorted({row["layer"] for row in self._rows if row["rho"] is not None}),
            "repairs": self._rows,
            "drift": {"layers": list(self.plan.kept), "before": self.drift_before, "after": self.drift()},
            "held_out_loss": {"before": self._loss_before, "after": self._loss},
            "samples": {"fit": count_samples(self.fit), "held_out": count_samples(self.held_out)},
        }
