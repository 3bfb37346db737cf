"""Choices that rounding could have made otherwise."""

from collections.abc import Sequence
from typing import Any

ROUNDING = 2.0**-8
"""Of bfloat16, relative."""


def close_calls(found: dict[str, Any], removed: Sequence[int]) -> list[str]:
    """A sentence for each choice in scores.json whose next best differs from it by rounding alone.

    A layer that scores below one that went was protected: it was no choice.
    """
    if "across" in found or "mlp" in found:
        return []
    if found.get("windows"):
        (distances,) = found["windows"].values()
        pairs = [tuple(sorted(distances)[:2])]
        return ["The choice of the block" + _SAID for pair in pairs if len(pair) == 2 and _close(*pair)]
    rounds = found["rounds"] or [{"scores": found["scores"], "removed": removed}]
    said = []
    for round_ in rounds:
        scores = {i: score for i, score in enumerate(round_["scores"]) if score is not None}
        last = max(round_["removed"], key=lambda i: scores[i])
        others = [i for i in scores.keys() - set(round_["removed"]) if scores[i] >= scores[last]]
        following = min(others, key=lambda i: scores[i], default=None)
        if following is not None and _close(scores[last], scores[following]):
            said.append(f"The choice between layers {last} and {following}{_SAID}")
    return said


_SAID = " is within the rounding of bfloat16; arithmetic=float32 decides it exactly."


def _close(chosen: float, following: float) -> bool:
    return abs(following - chosen) <= ROUNDING * max(abs(chosen), abs(following))
