"""Calibration samples set apart: a repair is kept only where it lowers their loss."""

from collections.abc import Sequence

from depthprune.errors import UserError
from depthprune.recovery.states import Batch


def split_samples(batches: Sequence[Batch], fraction: float) -> tuple[list[Batch], list[Batch]]:
    """The first samples to fit on and the last `fraction` of them to choose by, at least one of each.

    Calibration samples come shuffled. Raises `UserError` where there are fewer than two.
    """
    total = count_samples(batches)
    if total < 2:
        raise UserError(
            f"{total} calibration sample(s): a repair is fitted on some and chosen by others; give at least 2"
        )
    fitting = total - min(total - 1, max(1, round(fraction * total)))
    fit, held_out = [], []
    for batch in batches:
        here = min(fitting, len(batch["input_ids"]))
        fitting -= here
        fit.append({key: value[:here] for key, value in batch.items()})
        held_out.append({key: value[here:] for key, value in batch.items()})
    return [batch for batch in fit if len(batch["input_ids"])], [
        batch for batch in held_out if len(batch["input_ids"])
    ]


def count_samples(batches: Sequence[Batch]) -> int:
    """The rows of all batches."""
    return sum(len(batch["input_ids"]) for batch in batches)
