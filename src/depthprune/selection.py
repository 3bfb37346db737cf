"""Which layers go: from one score per layer, or from an explicit list, to a plan."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator

from depthprune.errors import UserError
from depthprune.settings import Settings


@dataclass(frozen=True)
class Plan:
    """Which layers of a model go and which stay, in the indices of the original model, ascending.

    Attributes:
        merged_into: removed layer → kept layer that takes its strongest weights, for recoveries that merge.
        ratio: removed layers / all layers, as it came out.
        notes: what the user should know about the plan, one sentence each.
    """

    num_layers: int
    removed: tuple[int, ...]
    metric: str = "none"
    selection: str = "explicit"
    merged_into: dict[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def kept(self) -> tuple[int, ...]:
        gone = set(self.removed)
        return tuple(i for i in range(self.num_layers) if i not in gone)

    @property
    def ratio(self) -> float:
        return len(self.removed) / self.num_layers

    def to_json(self) -> dict[str, Any]:
        """The content of `plan.json`."""
        return {
            "num_layers": self.num_layers,
            "removed": list(self.removed),
            "kept": list(self.kept),
            "merged_into": {str(gone): kept for gone, kept in sorted(self.merged_into.items())},
            "ratio": self.ratio,
            "metric": self.metric,
            "selection": self.selection,
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, plan: dict[str, Any]) -> "Plan":
        """The plan that `to_json` wrote."""
        merged = {int(gone): kept for gone, kept in plan["merged_into"].items()}
        removed, notes = tuple(plan["removed"]), tuple(plan.get("notes", ()))
        return cls(plan["num_layers"], removed, plan["metric"], plan["selection"], merged, notes)

    def merging(self, merged_into: dict[int, int], notes: Sequence[str] = ()) -> "Plan":
        """This plan with the layers that a recovery merges."""
        return replace(self, merged_into=merged_into, notes=(*self.notes, *notes))


def parse_layers(layers: str | int | Iterable[int | str]) -> list[int]:
    """`"18-30"`, `"1,3,5-7"`, `[18, "20-22", -1]` → a list of integers; ranges include both ends."""
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        layers = str(layers).split(",")
    parsed: list[int] = []
    for part in (str(part).strip() for part in layers):
        match = re.fullmatch(r"(\d+)-(\d+)|(-?\d+)", part)
        if match is None:
            raise UserError(f"layers {part!r}: write indices and inclusive ranges, such as 18-30 or 1,3,5-7")
        first, last, single = match.groups()
        if single is not None:
            parsed.append(int(single))
        elif int(first) > int(last):
            raise UserError(f"layers {part!r}: the range runs backwards; write {last}-{first}")
        else:
            parsed.extend(range(int(first), int(last) + 1))
    return parsed


Layers = Annotated[tuple[int, ...], BeforeValidator(parse_layers)]


def resolve_layers(layers: Iterable[int], num_layers: int, what: str) -> list[int]:
    """Sorted, distinct indices in [0, num_layers); negative ones count from the end."""
    resolved = set()
    for layer in layers:
        if not -num_layers <= layer < num_layers:
            raise UserError(
                f"{what}: layer {layer} is not in this model, whose layers are 0 to {num_layers - 1}"
            )
        resolved.add(layer % num_layers)
    return sorted(resolved)


def count_from_ratio(ratio: float, num_layers: int) -> int:
    """K = ratio × L, rounded half to even: 0.25 of 26 is 6. In exact arithmetic: 0.07 × 150 is 10.5."""
    return round(Fraction(str(ratio)) * num_layers)


class OneShot(Settings):
    """Remove the lowest-scored layers at once. Ties go to the deeper layer."""

    method: Literal["one-shot"] = "one-shot"
    ratio: float | None = 0.25
    """The share of the layers that goes."""
    num_removed: int | None = None
    """The number of layers that go, in place of `ratio`."""
    target_parameters: float | None = None
    """Remove layers until the model has at most this many parameters, in place of `ratio`."""
    protect: Layers = ()
    """Layers that stay whatever their score; negative indices count from the end."""


class Explicit(Settings):
    """Remove the layers that the user names."""

    method: Literal["explicit"] = "explicit"
    remove: Layers = ()
    """The layers that go, such as 18-30."""
    keep: Layers = ()
    """The layers that stay, in place of `remove`."""


class KeepAll(Settings):
    """Remove nothing: the model is only tuned and measured."""

    method: Literal["none"] = "none"


SELECTIONS: dict[str, type[OneShot] | type[Explicit] | type[KeepAll]] = {
    "one-shot": OneShot,
    "explicit": Explicit,
    "none": KeepAll,
}


def select_layers(
    scores: torch.Tensor | Sequence[float],
    ratio: float | None = 0.25,
    protect: str | Iterable[int] = (),
    *,
    num_removed: int | None = None,
    target_parameters: float | None = None,
    parameters: tuple[int, Sequence[int]] | None = None,
    metric: str = "scores",
) -> Plan:
    """The K layers with the lowest scores go; ties break toward the deeper layer.

    Args:
        scores: [L], higher = keep.
        ratio: share of layers to remove, in (0, 1); K = ratio × L rounded half to even.
        protect: layers never removed; negative indices count from the end, strings may hold ranges.
        num_removed: K itself, in place of `ratio`.
        target_parameters: remove until at most this many parameters remain, in place of `ratio`.
        parameters: (of the whole model, of each layer [L]); needed for `target_parameters`.
        metric: the name that goes into the plan.

    Raises:
        UserError: a ratio outside (0, 1) or rounding to no or every layer, non-finite scores, or protected
            layers that leave too few.
    """
    values = [float(score) for score in scores]
    num_layers = len(values)
    if not all(map(torch.isfinite, torch.tensor(values))):
        raise UserError(f"the {metric} scores hold a value that is not finite: {values}")
    kept = set(resolve_layers(parse_layers(protect), num_layers, "selection.protect"))
    order = sorted((i for i in range(num_layers) if i not in kept), key=lambda i: (values[i], -i))
    if target_parameters is not None:
        count = _count_to_reach(target_parameters, parameters, order)
    elif num_removed is not None:
        count = num_removed
    else:
        count = _checked_count(ratio, num_layers)
    if not 0 < count < num_layers:
        raise UserError(
            f"{count} of {num_layers} layers cannot be removed: remove between 1 and {num_layers - 1}"
        )
    if count > len(order):
        raise UserError(
            f"{count} of {num_layers} layers are to go but {len(kept)} are protected: protect fewer layers "
            f"or remove at most {len(order)}"
        )
    return Plan(num_layers, tuple(sorted(order[:count])), metric=metric, selection="one-shot")


def _checked_count(ratio: float | None, num_layers: int) -> int:
    if ratio is None:
        raise UserError("nothing says how much to remove: give a ratio, num_removed or target_parameters")
    if not 0 < ratio < 1:
        raise UserError(f"ratio is {ratio}: it is the share of layers to remove, between 0 and 1")
    count = count_from_ratio(ratio, num_layers)
    if count == 0:
        raise UserError(
            f"ratio {ratio} of {num_layers} layers rounds to none: the smallest ratio that removes one is "
            f"about {1 / num_layers:.3f}"
        )
    if count == num_layers:
        raise UserError(f"ratio {ratio} of {num_layers} layers rounds to all of them: lower it")
    return count


def _count_to_reach(target: float, parameters: tuple[int, Sequence[int]] | None, order: Sequence[int]) -> int:
    if parameters is None:
        raise UserError("target_parameters needs the model's own counts: pass parameters=(total, per layer)")
    total, per_layer = parameters
    if target >= total:
        raise UserError(f"target_parameters is {target:,.0f} and the model has {total:,} already: lower it")
    for count, layer in enumerate(order, start=1):
        total -= per_layer[layer]
        if total <= target:
            return count
    raise UserError(
        f"target_parameters {target:,.0f} is out of reach: {total:,} remain without any removable layer"
    )


def explicit_plan(settings: Explicit, num_layers: int, metric: str) -> Plan:
    """The plan that removes exactly the layers named, or all but those named in `keep`."""
    if bool(settings.remove) == bool(settings.keep):
        raise UserError(
            "selection.method=explicit takes either selection.remove or selection.keep, such as 18-30"
        )
    named = resolve_layers(settings.remove or settings.keep, num_layers, "selection")
    removed = named if settings.remove else [i for i in range(num_layers) if i not in set(named)]
    if not 0 < len(removed) < num_layers:
        raise UserError(
            f"{len(removed)} of {num_layers} layers would go: remove between 1 and {num_layers - 1}"
        )
    return Plan(num_layers, tuple(removed), metric=metric, selection="explicit")
