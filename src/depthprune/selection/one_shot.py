"""One-shot selection: the lowest-scored layers go at once."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from depthprune.errors import UserError
from depthprune.selection.base import Sizes
from depthprune.selection.finite import finite
from depthprune.selection.pairs import Cuts, silent_plan, stack
from depthprune.selection.plan import Plan, parse_layers
from depthprune.settings import build

if TYPE_CHECKING:
    import torch


class OneShot(Cuts):
    """Remove the lowest-scored layers at once. Ties go to the deeper layer."""

    method: Literal["one-shot"] = "one-shot"

    def plan(self, found: dict[str, Any], sizes: Sizes) -> Plan:
        """The K layers with the lowest `scores` go."""
        scores = finite(found["scores"], found["metric"])
        if self.in_pairs:
            across = finite(found["across"], found["metric"])
            taken = self.next_pairs(scores, across, (), sizes)
            removed, mlp_from = stack(len(scores), {part for _, pair in taken for part in pair})
            return Plan(len(scores), removed, found["metric"], self.method, mlp_from=mlp_from)
        if self.in_sublayers:
            both = [score for pair in zip(found["attention"], found["mlp"], strict=True) for score in pair]
            gone = self.next_sublayers(finite(both, found["metric"]), (), sizes)
            return silent_plan(len(scores), gone, found["metric"], self.method)
        order = self.candidates(scores)
        removed = tuple(sorted(order[: self.how_many(order, sizes)]))
        return Plan(len(scores), removed, metric=found["metric"], selection=self.method)


def select_layers(
    scores: "torch.Tensor | Sequence[float]",
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
    if target_parameters is not None and parameters is None:
        raise UserError("target_parameters needs the model's own counts: pass parameters=(total, per layer)")
    total, per_layer = parameters or (0, [0] * len(scores))
    settings = {
        "ratio": ratio,
        "num_removed": num_removed,
        "target_parameters": target_parameters,
        "protect": parse_layers(protect),
    }
    found = {"metric": metric, "scores": [float(score) for score in scores]}
    return build(OneShot, settings).plan(found, Sizes(total, per_layer))
