"""Where a pruned model can be repaired, and what is wanted there: kept layer → layer of the whole model."""

from depthprune.selection import Plan


def displaced(plan: Plan) -> list[int]:
    """The kept layers after the first removed one: pruning changes their input."""
    return [i for i in plan.kept if i > plan.removed[0]]


def handovers(plan: Plan) -> dict[int, int]:
    """Every layer that can be repaired, ascending, with the last layer before the next kept one.

    The output of that layer is what the next kept layer, or the final norm, received in the whole model.
    """
    following = (*plan.kept[1:], plan.num_layers)
    pairs = zip(plan.kept, following, strict=True)
    return {i: after - 1 for i, after in pairs if after > plan.removed[0]}


def before_gaps(plan: Plan) -> dict[int, int]:
    """Of `handovers`, the layers right before removed ones."""
    return {i: target for i, target in handovers(plan).items() if target != i}
