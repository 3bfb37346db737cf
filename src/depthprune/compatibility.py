"""Which methods of the four slots go together: what makes no sense is refused before anything is loaded."""

from typing import TYPE_CHECKING

from depthprune.errors import UserError
from depthprune.importance.none import NoMetric
from depthprune.recovery import RECOVERIES
from depthprune.selection import ByRecovery, Contiguous, Explicit, KeepAll

if TYPE_CHECKING:
    from depthprune.recipe import Recipe


def check_who_chooses(recipe: "Recipe") -> None:
    """Layers are chosen by scores, by the user, or by the recovery: never by two of them."""
    recovery = recipe.recovery.model_dump()["method"]
    metric, selection = recipe.importance.model_dump()["metric"], recipe.selection.method
    deciding = " or ".join(name for name, method in RECOVERIES.items() if method.decides)
    if recipe.recovery.decides and not isinstance(recipe.selection, ByRecovery):
        raise UserError(
            f"recovery.method={recovery} chooses the layers itself, and selection.method={selection} would "
            "choose others: take selection.method=by-recovery with importance.metric=none"
        )
    if isinstance(recipe.selection, ByRecovery) and not recipe.recovery.decides:
        raise UserError(
            f"selection.method=by-recovery leaves the choice to the recovery, and recovery.method={recovery} "
            f"chooses no layers: choose recovery.method={deciding}, or another selection"
        )
    if isinstance(recipe.selection, ByRecovery) and not isinstance(recipe.importance, NoMetric):
        raise UserError(
            f"recovery.method={recovery} reads no scores, and importance.metric={metric} would be computed "
            "in vain: choose importance.metric=none"
        )
    if isinstance(recipe.importance, NoMetric) and not isinstance(
        recipe.selection, ByRecovery | Explicit | KeepAll
    ):
        raise UserError(
            f"importance.metric=none scores nothing, and selection.method={selection} goes by scores: choose "
            "another metric, or selection.method=explicit"
        )
    if recipe.recovery.fewest_samples > recipe.calibration_samples.samples:
        raise UserError(
            f"recovery.method={recovery} needs at least {recipe.recovery.fewest_samples} calibration samples "
            f"as it is set: raise calibration_samples.samples, which is {recipe.calibration_samples.samples}"
        )


def check_block(recipe: "Recipe") -> None:
    """One layer can stand for a block only where a block is removed and its first layer stays."""
    selection, replaces = recipe.selection, recipe.recovery.replaces_block
    recovery = recipe.recovery.model_dump()["method"]
    if replaces and not isinstance(selection, Contiguous | Explicit | KeepAll):
        raise UserError(
            f"recovery.method={recovery} makes one layer of a block of neighbours, and selection.method="
            f"{selection.method} takes layers one by one: choose contiguous with selection.keep_first=true"
        )
    if isinstance(selection, Contiguous) and selection.keep_first != replaces:
        mend = (
            "set it to true" if replaces else "set it to false, or choose recovery.method=replacement-layer"
        )
        raise UserError(
            f"selection.keep_first is {str(selection.keep_first).lower()}, and recovery.method={recovery} "
            f"{'needs' if replaces else 'does nothing with'} the first layer of the block: {mend}"
        )
