"""Projection compensation (GradMAP, arXiv:2602.14649, stage 2): a linear map repairs what pruning moved."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from depthprune.errors import UserError
from depthprune.recovery.base import Evidence, RecoverySettings
from depthprune.recovery.places import before_gaps, displaced, handovers
from depthprune.selection import Plan

if TYPE_CHECKING:
    import torch

    from depthprune.recovery.down_projection import DownProjection
    from depthprune.recovery.repair import Candidate, Repairs

EPOCHS, LEARNING_RATE = 50, 1e-3
MEND = "give more samples, or a recovery.rho above 0"


class Projection(RecoverySettings):
    """W' = argmin ‖E − (W' − I)Y‖² + λ‖W' − I‖², W_down ← W' W_down, in closed form (eq. 10–13).

    E is what the layer's output lacks of the whole model's, Y the down projection's part in that output. λ is
    chosen by the loss of held-out calibration samples, and "no change" is among the candidates: a repair
    never raises that loss.
    """

    needs_calibration: ClassVar[bool] = True
    takes_offloaded: ClassVar[bool] = True
    paper: ClassVar[str] = "GradMAP (arXiv:2602.14649)"
    cost: ClassVar[str] = "3 forward passes, and about 3 a repaired layer"
    method: Literal["projection"] = "projection"
    layers: Annotated[int, Field(ge=1)] | Literal["gaps", "all"] = "gaps"
    """Which kept layers are repaired, shallow to deep: `gaps`, those right before removed ones; `all` from
    there on; or a number, so many with the largest mean drift (the paper: 1)."""
    rho: tuple[Annotated[float, Field(ge=0)], ...] = Field((0.001, 0.01, 0.1, 1.0, 10.0), min_length=1)
    """Candidates for the strength of the ridge: λ = ρ·tr(YYᵀ)/d."""
    held_out: float = Field(0.25, gt=0, lt=1)
    """The share of the calibration samples that choose."""
    solver: Literal["closed-form", "adam"] = "closed-form"
    """`adam` is the paper's way to the same map, for comparison."""
    epochs: int | None = Field(None, ge=1)
    """Of Adam, by default 50."""
    learning_rate: float | None = Field(None, gt=0)
    """Of Adam, by default 1e-3."""

    @field_validator("epochs", "learning_rate")
    @classmethod
    def _of_adam(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("solver") == "closed-form":
            raise ValueError("the closed form has none; set recovery.solver=adam or leave it out")
        return value

    def complete(self, plan: Plan, scores: list[float]) -> Plan:
        """Says so where the plan leaves nothing to repair."""
        return plan if self._reach(plan) else plan.merging({}, [self._nothing_to_repair()])

    def check(self, model: "torch.nn.Module") -> None:
        """Refuses models in which no layer's down projection takes a map, and Adam before a norm."""
        from depthprune.recovery.down_projection import first_that_takes_a_map

        down = first_that_takes_a_map(model)
        if down.norm is not None:
            self._refuse_adam(down.layer)

    def __call__(self, model: "torch.nn.Module", plan: Plan, evidence: Evidence) -> dict[str, Any]:
        """Repairs in place; no second model is made."""
        import torch

        from depthprune.recovery.repair import Repairs

        with torch.no_grad():
            repairs = Repairs(model, plan, evidence, self.held_out)
            places, notes = self._places(model, plan, repairs.drift_before)
            for down, target in places:
                repairs.choose(down, target, self._candidates(repairs, down, target))
            return {"solver": self.solver, "notes": notes, **repairs.report()}

    def _reach(self, plan: Plan) -> dict[int, int]:
        """The layers that may be repaired, each with the layer whose old output it is to give."""
        if self.layers == "gaps":
            return before_gaps(plan)
        return handovers(plan) if self.layers == "all" else {i: i for i in displaced(plan)}

    def _nothing_to_repair(self) -> str:
        where = "comes after" if isinstance(self.layers, int) else "lies before"
        return f"Nothing is repaired: no kept layer {where} a removed one."

    def _places(
        self, model: "torch.nn.Module", plan: Plan, drift: list[float]
    ) -> "tuple[list[tuple[DownProjection, int]], list[str]]":
        """The down projections to repair, shallow to deep, with their targets; and what there is to say."""
        from depthprune.recovery.down_projection import DownProjection, probe

        reach = self._reach(plan)
        order = list(reach)
        if isinstance(self.layers, int):
            size = dict(zip(plan.kept, drift, strict=True))
            order = sorted((i for i in order if size[i] > 0), key=lambda i: -size[i])
        places: dict[int, DownProjection] = {}
        notes = [] if order else [self._nothing_to_repair()]
        for i in order:
            if len(places) == self.layers:
                break
            found = probe(model, i)
            if isinstance(found, DownProjection):
                places[i] = found
            else:
                notes.append(f"Layer {i} is not repaired: {found}.")
        return [(places[i], reach[i]) for i in sorted(places)], notes

    def _candidates(self, repairs: "Repairs", down: "DownProjection", target: int) -> "list[Candidate]":
        from depthprune.recovery.adam import adam_change
        from depthprune.recovery.least_squares import Moments, Ridge, singular
        from depthprune.recovery.repair import Candidate

        if down.norm is not None:
            return self._normed_candidates(repairs, down, target)
        pairs = repairs.pairs(down, target, repairs.fit)
        if self.solver == "adam":
            held = list(pairs)
            scale = Moments(held).scale
            epochs, rate = self.epochs or EPOCHS, self.learning_rate or LEARNING_RATE
            return [
                Candidate(adam_change(held, rho * scale, epochs, rate), rho * scale, rho) for rho in self.rho
            ]
        ridge = Ridge(Moments(pairs))
        if 0 in self.rho and ridge.is_singular:
            raise singular(ridge.moments.tokens, len(ridge.values), down.layer, MEND)
        return [
            Candidate(ridge.toward_identity(rho * ridge.moments.scale), rho * ridge.moments.scale, rho)
            for rho in self.rho
        ]

    def _normed_candidates(
        self, repairs: "Repairs", down: "DownProjection", target: int
    ) -> "list[Candidate]":
        from depthprune.recovery.least_squares import singular
        from depthprune.recovery.repair import normed_candidate

        self._refuse_adam(down.layer)
        fitting = repairs.through_norm(down, target)
        if 0 in self.rho and fitting.is_singular:
            raise singular(fitting.tokens, len(fitting.start), down.layer, MEND)
        return [normed_candidate(fitting, rho * fitting.scale) for rho in self.rho]

    def _refuse_adam(self, layer: int) -> None:
        if self.solver == "adam":
            raise UserError(
                f"layer {layer}: recovery.solver=adam fits no map through the norm after its MLP: "
                "leave recovery.solver out"
            )
