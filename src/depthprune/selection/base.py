"""What the selections share: the sizes they count with, and how much is to go."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from depthprune.errors import UserError
from depthprune.selection.plan import Layers, Plan, resolve_layers
from depthprune.settings import Settings


@dataclass(frozen=True)
class Sizes:
    """The parameters of a model: all of them, and those of each decoder layer, [L]."""

    total: int
    per_layer: Sequence[int]

    @property
    def num_layers(self) -> int:
        return len(self.per_layer)


class SelectionSettings(Settings):
    """A selection: `selection.plan(found, sizes)` makes a plan of `found`, the content of `scores.json`."""

    paper: ClassVar[str] = "–"
    method: str

    def plan(self, found: dict[str, Any], sizes: Sizes) -> Plan:
        """The plan; raises `UserError` where the settings ask for what this model has not."""
        raise NotImplementedError

    def rehearse(self, sizes: Sizes) -> Plan:
        """Before anything is scored: a plan of as many layers as will go; raises what `plan` would."""
        raise NotImplementedError


class Amount(SelectionSettings):
    """How many layers go, and which never do."""

    ratio: float | None = 0.25
    """The share of the layers that goes."""
    num_removed: int | None = None
    """The number of layers that go, in place of `ratio`."""
    target_parameters: float | None = None
    """Remove layers until the model has at most this many parameters, in place of `ratio`."""
    protect: Layers = ()
    """Layers that stay whatever their score; negative indices count from the end."""

    @field_validator("ratio")
    @classmethod
    def _is_a_share(cls, ratio: float | None) -> float | None:
        if ratio is not None and not 0 < ratio < 1:
            raise ValueError("it is the share of layers to remove, between 0 and 1")
        return ratio

    def parts(self, num_layers: int) -> int:
        """How many there are of what an amount counts."""
        return num_layers

    def rehearse(self, sizes: Sizes) -> Plan:
        """The deepest layers, as many as will go."""
        layers = sizes.num_layers
        count = self.how_many(self.candidates([0.0] * layers), sizes)
        return Plan(layers, tuple(range(layers - count, layers)))

    def candidates(self, scores: Sequence[float], removed: Sequence[int] = ()) -> list[int]:
        """The layers that may go yet, the lowest score first; ties break toward the deeper layer."""
        staying = {*resolve_layers(self.protect, len(scores), "selection.protect"), *removed}
        return sorted((i for i in range(len(scores)) if i not in staying), key=lambda i: (scores[i], -i))

    def how_many(self, order: Sequence[int], sizes: Sizes, removed: Sequence[int] = ()) -> int:
        """How many of the layers in `order` are to go yet, beside those `removed` already.

        Raises:
            UserError: a ratio outside (0, 1) or rounding to no or every layer, or too many protected layers.
        """
        layers = sizes.num_layers
        if self.target_parameters is not None:
            count = _count_to_reach(self.target_parameters, sizes, order, removed)
        else:
            count = _checked_count(self.ratio, layers) if self.num_removed is None else self.num_removed
        if not 0 < count < layers:
            raise UserError(
                f"{count} of {layers} layers cannot be removed: remove between 1 and {layers - 1}"
            )
        if count - len(removed) > len(order):
            most = len(order) + len(removed)
            raise UserError(
                f"{count} of {layers} layers are to go but {layers - most} are protected: "
                f"protect fewer layers or remove at most {most}"
            )
        return count - len(removed)


class ByScores(Amount):
    """A selection that goes by scores, which the guard may overrule.

    No score is sure to see the layers without which nothing works: on Gemma 3 270M two of three gradient
    metrics rank some of them lowest. Which ones they are is measured once, on the whole model.
    """

    later: ClassVar[tuple[str, ...]] = ("guard",)
    guard: Annotated[float, Field(gt=1)] | Literal["none"] = 10.0
    """Layers stay without which, alone, held-out perplexity is more than this many times the whole model's.
    `none` is the papers' letter."""

    def keeping(self, layers: Sequence[int]) -> Self:
        """The same selection, with these layers protected too."""
        return self.model_copy(update={"protect": (*self.protect, *layers)})


def count_from_ratio(ratio: float, num_layers: int) -> int:
    """K = ratio × L, rounded half to even: 0.25 of 26 is 6. In exact arithmetic: 0.07 × 150 is 10.5."""
    return round(Fraction(str(ratio)) * num_layers)


def _checked_count(ratio: float | None, num_layers: int) -> int:
    if ratio is None:
        raise UserError("nothing says how much to remove: give a ratio, num_removed or target_parameters")
    count = count_from_ratio(ratio, num_layers)
    if count == 0:
        raise UserError(
            f"ratio {ratio} of {num_layers} layers rounds to none: the smallest ratio that removes one is "
            f"about {1 / num_layers:.3f}"
        )
    if count == num_layers:
        raise UserError(f"ratio {ratio} of {num_layers} layers rounds to all of them: lower it")
    return count


def _count_to_reach(target: float, sizes: Sizes, order: Sequence[int], removed: Sequence[int]) -> int:
    """How many layers go in all, those `removed` already first."""
    if target >= sizes.total:
        raise UserError(
            f"target_parameters is {target:,.0f} and the model has {sizes.total:,} already: lower it"
        )
    left = sizes.total
    for count, layer in enumerate([*removed, *order], start=1):
        left -= sizes.per_layer[layer]
        if left <= target:
            return count
    raise UserError(
        f"target_parameters {target:,.0f} is out of reach: {left:,} remain without any removable layer"
    )
