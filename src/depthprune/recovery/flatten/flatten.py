"""Flattening: two neighbouring layers become one of the standard shape, in closed form.

Ours, after the idea of FlattenGPT (arXiv:2602.08858), which published no code: the layers are put side by
side, and heads, channels and what they write are chosen by least squares on the true output.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from depthprune.recovery.base import Evidence, RecoverySettings
from depthprune.selection import ByRecovery, Plan, Sizes

if TYPE_CHECKING:
    from torch import nn

    from depthprune.recovery.flatten.search import Search, Step


class Flatten(RecoverySettings):
    """One layer for two: argmin ‖ĥ_b − h_b‖² over the calibration tokens, each weighed by 1/‖h_b‖².

    Attention: the heads of both layers read the input of the first; as many groups as one layer has stay, by
    backward elimination. MLP: of both layers' channels on the stream behind it, those that write most. What
    they write is a ridge toward what they wrote. The held-out loss chooses among that, one layer with its
    MLP refitted or what it writes mapped, and the bare cuts, so that a pair never ends worse there than cut.
    A layer made so may be flattened again.
    """

    needs_calibration: ClassVar[bool] = True
    decides: ClassVar[bool] = True
    takes_plans: ClassVar[bool] = True
    takes_offloaded: ClassVar[bool] = True
    paper: ClassVar[str] = "ours, after FlattenGPT (arXiv:2602.08858)"
    cost: ClassVar[str] = "about 10 forward passes of each pair, and the solves"
    method: Literal["flatten"] = "flatten"
    choose_by: Literal["loss", "error"] = "loss"
    """Which pair is next: of the few with the smallest error of their output the one with the lowest held-out
    loss, or the one with the smallest error."""
    tried: int = Field(3, ge=1)
    """How many pairs are tried by their loss."""
    rho: tuple[Annotated[float, Field(gt=0)], ...] = Field((0.01, 0.1, 1.0), min_length=1)
    """Candidates for the strength of the ridges: λ = ρ·tr(G)/n."""
    refine: Literal["none", "local"] = "none"
    """`local`: one layer trained on what the pair gives, from the best cut and from the best other start, is
    among the candidates."""
    held_out: float = Field(0.25, gt=0, lt=1)
    """The share of the calibration samples that choose."""

    @property
    def fewest_samples(self) -> int:
        """Some to fit on, some held out."""
        return 2

    def estimate(self, model: "nn.Module", tokens: int, removed: int) -> dict[str, int]:
        """Of choosing and making the layers."""
        from depthprune.recovery.flatten.cost import estimate

        return estimate(model, tokens, removed, self.tried, self.held_out)

    def complete(self, plan: Plan, scores: list[float]) -> Plan:
        """Each removed layer goes into the kept one that is nearest, into the one before it where two are."""
        return plan.merging({gone: _nearest(gone, plan.kept) for gone in plan.removed})

    def choose(self, model: "nn.Module", evidence: Evidence, selection: ByRecovery, sizes: Sizes) -> Plan:
        """Flattens pair after pair until enough layers are gone, and puts everything back."""
        from depthprune.recovery.flatten.search import Search

        search = Search(model, evidence, self.held_out, self.rho, self.refine == "local")
        removable = selection.removable(sizes)
        errors: dict[tuple[int, int], float] = {}
        try:
            for kept in evidence.taken.steps:
                search.take(*search.again(kept["step"]))
                errors = {(a, b): float("inf") if error is None else error for a, b, error in kept["errors"]}
            while selection.missing(search.removed, sizes):
                step, layer = self._next(search, removable, errors)
                search.take(step, layer)
                # Elsewhere the inputs have changed by little, and what is tried is fitted again.
                touched = {step.first, step.second}
                errors = {pair: error for pair, error in errors.items() if not touched & {*pair}}
                evidence.taken.add(_as_json(step, errors), _said(step))
            return _plan(search.steps, sizes.num_layers)
        finally:
            search.undo()

    def __call__(self, model: "nn.Module", plan: Plan, evidence: Evidence) -> dict[str, Any]:
        """Flattens as the plan says: step by step, or each layer that others remove into a kept one."""
        from depthprune.recovery.flatten.search import Search
        from depthprune.recovery.flatten.settle import settled

        search = Search(model, evidence, self.held_out, self.rho, self.refine == "local")
        whole, outcomes = search.loss, []
        for start in (_take_steps, _cut):
            start(search, plan)
            outcomes.append(settled(search))
            search.undo()
        best = min(outcomes, key=lambda outcome: outcome.loss)
        for i, layer in best.layers.items():
            search.layers[i] = layer
        return {
            "changed_layers": best.changed,
            "steps": [step.to_json() for step in best.steps],
            "settled": best.settled,
            "held_out_loss": {"whole": whole, "after": best.loss},
        }

    def _next(
        self, search: "Search", removable: set[int], errors: dict[tuple[int, int], float]
    ) -> "tuple[Step, nn.Module]":
        """The step to take now, with its layer; `errors` are of pairs fitted before, and are filled in."""
        unknown = {pair for pair in search.neighbours(removable) if pair not in errors}
        errors |= search.errors(unknown)
        order = sorted((pair for pair in errors if errors[pair] < float("inf")), key=errors.__getitem__)
        tried = order[: self.tried if self.choose_by == "loss" else 1]
        return search.best(tried, removable)


def _take_steps(search: "Search", plan: Plan) -> None:
    """The plan's own steps, or each layer that others remove into a kept one."""
    for step in plan.search:
        search.take(*search.again(step))
    for gone in () if plan.search else _inwards(plan):
        kept = plan.merged_into[gone]
        search.take(*search.best({(min(gone, kept), max(gone, kept))}, {gone}))


def _cut(search: "Search", plan: Plan) -> None:
    search.cut(plan)


def _as_json(step: "Step", errors: dict[tuple[int, int], float]) -> dict[str, Any]:
    """A step, and the errors that still hold after it."""
    known = [[*pair, error if error < float("inf") else None] for pair, error in errors.items()]
    return {"removed": [step.removed], "step": step.to_json(), "errors": known}


def _said(step: "Step") -> str:
    how = {
        "flatten": "flattened into one",
        "refit": f"become layer {step.kept}, its MLP fitted to both",
        "map": f"become layer {step.kept}, what its MLP writes mapped to both",
    }
    became = how.get(step.how, f"become layer {step.kept} as it is")
    return f"layers {step.first} and {step.second} {became} (held-out loss {step.loss:.4f})"


def _nearest(layer: int, kept: Sequence[int]) -> int:
    return min(kept, key=lambda k: (abs(k - layer), k))


def _inwards(plan: Plan) -> Sequence[int]:
    """The removed layers, each next to what it goes into by the time that it is its turn."""
    return sorted(plan.removed, key=lambda gone: abs(gone - plan.merged_into[gone]))


def _plan(steps: "Sequence[Step]", depth: int) -> Plan:
    into: dict[int, int] = {}
    for step in steps:
        into = {gone: step.kept if kept == step.removed else kept for gone, kept in into.items()}
        into[step.removed] = step.kept
    return Plan(
        depth,
        tuple(sorted(step.removed for step in steps)),
        selection="by-recovery",
        merged_into=into,
        search=tuple(step.to_json() for step in steps),
    )
