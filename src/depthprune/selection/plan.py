"""The plan: which layers of a model go and which stay."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from pydantic import BeforeValidator

from depthprune.errors import UserError


@dataclass(frozen=True)
class Plan:
    """Which layers of a model go and which stay, in the indices of the original model, ascending.

    Attributes:
        merged_into: removed layer → kept layer that takes its strongest weights, for recoveries that merge.
        combined: kept layer → the layers that its weights are a sum of, each with its coefficient, for
            recoveries that choose the layers themselves.
        search: what such a recovery tried and found, step by step.
        mlp_from: kept layer → the removed layer whose MLP, with its norms, it takes in place of its own.
        silenced: kept layer → which of its sides add nothing, "attention" or "mlp": they stay as zeros.
        ratio: removed layers / all layers, as it came out.
        notes: what the user should know about the plan, one sentence each.
        opinion: what was measured beside the scores, as `selection/guard.py` has it.
    """

    num_layers: int
    removed: tuple[int, ...]
    metric: str = "none"
    selection: str = "explicit"
    merged_into: dict[int, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    combined: dict[int, dict[int, float]] = field(default_factory=dict)
    search: tuple[dict[str, Any], ...] = ()
    mlp_from: dict[int, int] = field(default_factory=dict)
    silenced: dict[int, tuple[str, ...]] = field(default_factory=dict)
    opinion: dict[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> tuple[int, ...]:
        gone = set(self.removed)
        return tuple(i for i in range(self.num_layers) if i not in gone)

    @property
    def ratio(self) -> float:
        return len(self.removed) / self.num_layers

    @property
    def removes_block(self) -> bool:
        """Whether the removed layers are neighbours."""
        return self.removed[-1] - self.removed[0] + 1 == len(self.removed)

    def to_json(self) -> dict[str, Any]:
        """The content of `plan.json`."""
        plan: dict[str, Any] = {
            "num_layers": self.num_layers,
            "removed": list(self.removed),
            "kept": list(self.kept),
            "merged_into": {str(gone): kept for gone, kept in sorted(self.merged_into.items())},
            "ratio": self.ratio,
            "metric": self.metric,
            "selection": self.selection,
            "notes": list(self.notes),
        }
        if self.combined:
            plan["combined"] = {
                str(kept): {str(layer): share for layer, share in parts.items()}
                for kept, parts in self.combined.items()
            }
        if self.search:
            plan["search"] = list(self.search)
        if self.mlp_from:
            plan["mlp_from"] = {str(kept): gone for kept, gone in sorted(self.mlp_from.items())}
        if self.silenced:
            plan["silenced"] = {str(layer): list(names) for layer, names in sorted(self.silenced.items())}
        if self.opinion:
            plan["opinion"] = self.opinion
        return plan

    @classmethod
    def from_json(cls, plan: dict[str, Any]) -> "Plan":
        """The plan that `to_json` wrote."""
        return cls(
            plan["num_layers"],
            tuple(plan["removed"]),
            plan["metric"],
            plan["selection"],
            {int(gone): kept for gone, kept in plan["merged_into"].items()},
            tuple(plan.get("notes", ())),
            {
                int(kept): {int(layer): share for layer, share in parts.items()}
                for kept, parts in plan.get("combined", {}).items()
            },
            tuple(plan.get("search", ())),
            {int(kept): gone for kept, gone in plan.get("mlp_from", {}).items()},
            {int(layer): tuple(names) for layer, names in plan.get("silenced", {}).items()},
            plan.get("opinion", {}),
        )

    def merging(self, merged_into: dict[int, int], notes: Sequence[str] = ()) -> "Plan":
        """This plan with the layers that a recovery merges."""
        return replace(self, merged_into=merged_into, notes=(*self.notes, *notes))


MOST_LAYERS = 10_000
"""More than any model has; longer ranges are not written out."""


def parse_layers(layers: str | int | Iterable[int | str]) -> list[int]:
    """`"18-30"`, `"1,3,5-7"`, `[18, "20-22", -1]` → a list of integers; ranges include both ends.

    Raises UserError for anything else, and for layers that no model has.
    """
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        layers = str(layers).split(",")
    parsed: list[int] = []
    for part in (str(part).strip() for part in layers):
        match = re.fullmatch(r"([0-9]+)-([0-9]+)|(-?[0-9]+)", part)
        if match is None:
            raise UserError(
                f"layers {part!r:.100}: write indices and inclusive ranges, such as 18-30 or 1,3,5-7"
            )
        if any(len(number) > 5 or int(number) >= MOST_LAYERS for number in re.findall("[0-9]+", part)):
            raise UserError(f"layers {part!r:.100}: no model has so many layers; name those that it has")
        first, last, single = match.groups()
        if single is not None:
            parsed.append(int(single))
        elif int(first) > int(last):
            raise UserError(f"layers {part!r}: the range runs backwards; write {last}-{first}")
        else:
            parsed.extend(range(int(first), int(last) + 1))
        if len(parsed) > MOST_LAYERS:
            raise UserError(f"layers: more than {MOST_LAYERS:,} are named; name each layer once")
    return parsed


def parse_mlp_from(pairs: str) -> dict[int, int]:
    """`"4:5,8:10"` → {4: 5, 8: 10}: kept layer → the removed layer whose MLP it takes."""
    found: dict[int, int] = {}
    for pair in filter(None, (part.strip() for part in pairs.split(","))):
        if not re.fullmatch(r"[0-9]{1,5}:[0-9]{1,5}", pair):
            raise UserError(f"mlp-from {pair!r:.100}: write kept:removed, such as 4:5 or 4:5,8:10")
        kept, gone = map(int, pair.split(":"))
        if kept in found or gone in found.values():
            raise UserError(f"mlp-from {pair!r:.100}: each layer gives or takes one MLP: name it once")
        found[kept] = gone
    return found


Layers = Annotated[
    tuple[int, ...], BeforeValidator(parse_layers, json_schema_input_type=int | str | list[int | str])
]


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
