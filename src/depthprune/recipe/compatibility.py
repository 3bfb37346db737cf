"""Which methods of the four slots go together: what makes no sense is refused before anything is loaded."""

from depthprune.errors import UserError
from depthprune.evaluation.bert_score import check_bert_score
from depthprune.importance import METRICS
from depthprune.importance.none import NoMetric
from depthprune.importance.windows import WindowMetric
from depthprune.recipe.recipe import Recipe
from depthprune.recovery import RECOVERIES
from depthprune.recovery.magnitude_compensation import MagnitudeCompensation
from depthprune.selection import ByRecovery, Contiguous, Explicit, Iterative, KeepAll
from depthprune.selection.pairs import Cuts
from depthprune.training import FineTuning


def check_combination(recipe: Recipe) -> None:
    """Raises `UserError` with the reason where the recipe's methods do not go together."""
    if isinstance(recipe.training, FineTuning):
        recipe.training.check_settings(prunes=not isinstance(recipe.selection, KeepAll))
    check_bert_score(recipe.evaluation.bert_score, recipe.evaluation.bert_score_layer)
    _check_device_map(recipe)
    _check_windows(recipe)
    _check_gradients(recipe)
    _check_who_chooses(recipe)
    _check_block(recipe)
    _check_pairs(recipe)
    _check_sublayers(recipe)
    _check_compensation(recipe)


def _check_device_map(recipe: Recipe) -> None:
    """What trains has all weights in memory, and so has what moves parts from layer to layer."""
    if recipe.device_map is None:
        return
    asked = f"device_map is {recipe.device_map}"
    if not recipe.importance.takes_offloaded:
        able = ", ".join(name for name, metric in METRICS.items() if metric.takes_offloaded)
        raise UserError(
            f"{asked}, and importance.metric={recipe.importance.metric} needs gradients of all weights, in "
            f"memory: choose one of {able}"
        )
    if not recipe.recovery.takes_offloaded:
        able = ", ".join(name for name, method in RECOVERIES.items() if method.takes_offloaded)
        raise UserError(
            f"{asked}, and recovery.method={recipe.recovery.method} changes layers in memory: choose one of "
            f"{able}"
        )
    if isinstance(recipe.selection, Cuts) and recipe.selection.granularity != "layers":
        raise UserError(
            f"{asked}, and selection.granularity={recipe.selection.granularity} moves parts of layers in "
            "memory: choose selection.granularity=layers"
        )


def _check_windows(recipe: Recipe) -> None:
    """A distance across a block says nothing of single layers."""
    if isinstance(recipe.importance, WindowMetric) and not isinstance(
        recipe.selection, Contiguous | Explicit | KeepAll
    ):
        raise UserError(
            f"importance.metric={recipe.importance.metric} scores blocks of layers, and "
            f"selection.method={recipe.selection.method} takes layers one by one: choose contiguous"
        )


def _check_gradients(recipe: Recipe) -> None:
    """Merging reads the gradients of the one scoring run that recorded them."""
    if recipe.recovery.needs_gradients and recipe.importance.needs != "training":
        raise UserError(
            "recovery.method=same-sign-merge reads the gradients that importance.metric=igia records: "
            "choose both, or recovery.method=none"
        )
    if recipe.recovery.needs_gradients and isinstance(recipe.selection, Iterative):
        raise UserError(
            "recovery.method=same-sign-merge reads the gradients of one scoring run, and selection.method="
            "iterative makes one a round: choose one-shot, or recovery.method=none"
        )


def _check_who_chooses(recipe: Recipe) -> None:
    """Layers are chosen by scores, by the user, or by the recovery: never by two of them."""
    recovery = recipe.recovery.method
    metric, selection = recipe.importance.metric, recipe.selection.method
    deciding = " or ".join(name for name, method in RECOVERIES.items() if method.decides)
    if not recipe.recovery.takes_plans and not isinstance(recipe.selection, ByRecovery):
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


def _check_block(recipe: Recipe) -> None:
    """One layer can stand for a block only where a block is removed and its first layer stays."""
    selection, replaces = recipe.selection, recipe.recovery.replaces_block
    recovery = recipe.recovery.method
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


def _check_pairs(recipe: Recipe) -> None:
    """Cuts between layers need scores of them, and repairs that know of layers made of two."""
    if not isinstance(recipe.selection, Cuts) or not recipe.selection.in_pairs:
        return
    asked = "selection.granularity=sublayer-pairs"
    if not recipe.importance.scores_pairs:
        raise UserError(
            f"importance.metric={recipe.importance.metric} scores whole layers alone, and {asked} needs the "
            f"pairs between them too: choose one of {_names('scores_pairs')}"
        )
    if not recipe.recovery.takes_pairs:
        raise UserError(
            f"recovery.method={recipe.recovery.method} repairs around whole layers, and {asked} makes "
            "layers of two: choose recovery.method=none, or selection.granularity=layers"
        )
    _check_counts(recipe.selection, f"{asked} counts in layers")


def _check_sublayers(recipe: Recipe) -> None:
    """Attentions and MLPs go one by one only by their own scores, and nothing may bring them back."""
    if not isinstance(recipe.selection, Cuts) or not recipe.selection.in_sublayers:
        if recipe.importance.metric == "output-change":
            raise UserError(
                "importance.metric=output-change scores attentions and MLPs: set selection.granularity="
                "sublayers with selection.method=iterative or one-shot"
            )
        return
    asked = "selection.granularity=sublayers"
    if not recipe.importance.scores_sublayers:
        raise UserError(
            f"importance.metric={recipe.importance.metric} does not score attentions and MLPs one by one, as "
            f"{asked} needs: choose one of {_names('scores_sublayers')}"
        )
    if recipe.recovery.method != "none" or recipe.training.method != "none":
        raise UserError(
            f"{asked} leaves zeros in place of what it takes, and a recovery or a training would fill them: "
            "choose recovery.method=none and training.method=none"
        )
    _check_counts(recipe.selection, f"{asked} counts sublayers")


def _names(ability: str) -> str:
    """The metrics that have it."""
    return ", ".join(name for name, metric in METRICS.items() if getattr(metric, ability))


def _check_counts(selection: Cuts, reason: str) -> None:
    """Parameters are counted in whole layers."""
    if selection.target_parameters is not None:
        raise UserError(f"{reason}: give selection.ratio or num_removed, no target_parameters")


def _check_compensation(recipe: Recipe) -> None:
    """Rounds are scored on a stretched stream where scores can see it and the model will have it."""
    if not isinstance(recipe.selection, Iterative) or not recipe.selection.compensate:
        return
    if recipe.importance.needs not in ("calibration", "gradients"):
        raise UserError(
            f"selection.compensate is true, and importance.metric={recipe.importance.metric} does not look "
            "at calibration samples: set it to false, or choose another metric, such as block-influence"
        )
    if not isinstance(recipe.recovery, MagnitudeCompensation):
        raise UserError(
            "selection.compensate chooses layers for a compensated model, and recovery.method="
            f"{recipe.recovery.method} does not make one: choose recovery.method=magnitude-compensation"
        )
