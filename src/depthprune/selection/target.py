"""A size or a speed that a pruned model is to have, and how many layers have to go for it."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from depthprune.errors import UserError

COUNTS = {"": 1, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
BYTES = {
    **{unit + b: 1000**power for power, unit in enumerate(("", "k", "m", "g", "t")) for b in ("", "b")},
    **{f"{unit}i{b}": 1024**power for power, unit in enumerate("kmgt", 1) for b in ("", "b")},
}
_MEASURES = {"parameters": "parameters", "memory": "bytes", "latency": "cost_share"}
_EXAMPLES = {
    "parameters": "6e9 or 6B",
    "memory": "12GB or 11GiB",
    "latency": "0.7, a share of the whole model's",
}


@dataclass(frozen=True)
class Target:
    """At most this many parameters, bytes of weights, or this share of the whole model's cost of a token.

    Attributes:
        option: as the user typed it, such as `--target-memory 12GB`.
        measure: which of the values of `shares` is meant.
        most: that value, at most.
    """

    option: str
    measure: str
    most: float

    def layers_to_go(
        self, layers: Sequence[int], total: int, head: int, itemsize: int, staying: Sequence[int] = ()
    ) -> int:
        """The smallest number of layers without which the model is within the target, whichever they are.

        The smallest layers are taken to go, since the scores decide later; of equal layers that is exact.

        Args:
            layers, total, head, itemsize: as of `shares`.
            staying: layers that never go.

        Raises:
            UserError: the whole model is within it already, or no number of layers is enough.
        """
        order = sorted({*range(len(layers))} - {*staying}, key=lambda i: layers[i])[: len(layers) - 1]
        left = float(shares(layers, total, head, (), itemsize)[self.measure])
        if left <= self.most:
            raise UserError(f"{self.option}: the whole model has {self._said(left)} already: lower it")
        for count in range(1, len(order) + 1):
            left = shares(layers, total, head, order[:count], itemsize)[self.measure]
            if left <= self.most:
                return count
        raise UserError(
            f"{self.option} is out of reach: {self._said(left)} remain with {len(order)} of {len(layers)} "
            "layers gone, and no more can go: raise it"
        )

    def said(self, count: int, layers: Sequence[int]) -> str:
        """What it comes to."""
        unlike = "" if len({*layers}) == 1 else "; they differ in size, and so many are enough whichever go"
        return f"{self.option}: {count} of {len(layers)} layers go{unlike}"

    def _said(self, value: float) -> str:
        if self.measure == "cost_share":
            return f"{value:.3f} of the whole model's cost of a token"
        return f"{value:,.0f} {self.measure}"


def parse_target(**texts: str | None) -> Target | None:
    """What one of the options `parameters`, `memory` and `latency` says, if one was given.

    Raises:
        UserError: two of them, or a text that is no such number.
    """
    given = {name: text for name, text in texts.items() if text is not None}
    if len(given) > 1:
        options = " and ".join(f"--target-{name}" for name in [*given][:2])
        raise UserError(f"{options} both say how many layers go: give one of them")
    for name, text in given.items():
        option = f"--target-{name} {text:.100}"
        value = _number(text, {"parameters": COUNTS, "memory": BYTES}.get(name, {"": 1}))
        if value is None or not value < (1 if name == "latency" else math.inf):
            raise UserError(f"{option}: write a number above 0, such as {_EXAMPLES[name]}")
        return Target(option, _MEASURES[name], value)
    return None


def _number(text: str, units: dict[str, float]) -> float | None:
    """Of a number and its unit, if it is one, and above zero."""
    match = re.fullmatch(r"\s*(\S*?[\d.])\s*([a-z]*)\s*", text.lower())
    if match is None or match[2] not in units:
        return None
    try:
        value = float(match[1]) * units[match[2]]
    except ValueError:
        return None
    return value if value > 0 else None


def shares(
    layers: Sequence[int], total: int, head: int, removed: Sequence[int], itemsize: int
) -> dict[str, Any]:
    """Size and cost after `removed` go: layers, parameters, bytes, and the shares of the whole model's.

    Args:
        layers: parameters of each, [L].
        total, head: parameters of all, and of the head, be it tied or not.
        itemsize: bytes of a parameter.
    """
    gone = sum(layers[i] for i in removed)
    products = sum(layers) + head
    return {
        "layers": len(layers) - len(removed),
        "parameters": total - gone,
        "bytes": (total - gone) * itemsize,
        "parameters_share": (total - gone) / total,
        "cost_share": (products - gone) / products,
    }
