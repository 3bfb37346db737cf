"""The guard: layers without which nothing works stay, whatever they score. What a plan is held against."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from depthprune.errors import UserError
from depthprune.selection.base import ByScores, Sizes

MOST_NATS = 700.0
"""Beyond it no float holds the perplexity."""


def perplexity(loss: float) -> float:
    """exp of a loss in nats, bounded; of a loss that is no number, the bound."""
    return math.exp(min(loss, MOST_NATS)) if math.isfinite(loss) else math.exp(MOST_NATS)


def vital_layers(without: Sequence[float], whole: float, factor: float) -> dict[int, float]:
    """The layers without which, alone, perplexity rises beyond `factor` times: layer → times, worst first.

    Args:
        without: the loss a token without each layer, in nats, [L].
        whole: that of the whole model.
    """
    times = {i: perplexity(loss - whole) for i, loss in enumerate(without)}
    found = {i: rise for i, rise in times.items() if rise > factor}
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def affordable(selection: ByScores, vital: Mapping[int, float], sizes: Sizes) -> list[int]:
    """Of the vital layers, the worst first, as many as can stay while as many layers go as are to go."""
    kept = list(vital)
    while kept:
        try:
            selection.keeping(kept).rehearse(sizes)
            break
        except UserError:  # too few others
            kept.pop()
    return kept


def guard_notes(guard: dict[str, Any], removed: Sequence[int]) -> list[str]:
    """What the guard changed, and where it gave way, in sentences.

    Args:
        guard: `factor`, `vital` (layer → times), `spared` and `instead`, as the plan's opinion has it.
    """
    said, vital = [], {int(layer): rounded(times) for layer, times in guard["vital"].items()}
    for layer in guard["spared"]:
        said.append(
            f"The guard kept layer {layer}: without it alone, perplexity is {vital[layer]} times the whole "
            f"model's (selection.guard={guard['factor']:g})."
        )
    if guard["instead"]:
        said.append(f"In its place {_named(guard['instead'])} went.")
    if gone := [layer for layer in vital if layer in removed]:
        rises = ", ".join(f"{vital[layer]} times without layer {layer} alone" for layer in gone)
        said.append(f"Layers go that the guard would keep, were there enough others: perplexity is {rises}.")
    return said


def opinion_sentence(opinion: dict[str, Any]) -> str:
    """The bare cut beside the whole model and the controls, in one sentence."""
    if "left_out" in opinion:
        return f"No guard and no second opinion: {opinion['left_out']}."
    parts = [f"whole model {rounded(opinion['whole'])}", f"bare cut {rounded(opinion['bare_cut'])}"]
    parts += [
        f"without {_named(control['removed'])} ({control['name']}) {rounded(control['perplexity'])}"
        for control in opinion["controls"]
    ]
    return f"Perplexity on {opinion['samples']} calibration samples: {'; '.join(parts)}."


def worse_notes(opinion: dict[str, Any]) -> list[str]:
    """A sentence where the bare cut is clearly worse than a control: than the best of them."""
    worse = [control for control in opinion.get("controls", ()) if control["clearly_better"]]
    if not worse:
        return []
    best = min(worse, key=lambda control: control["perplexity"])
    return [
        f"A cheap control is clearly better: without {_named(best['removed'])} ({best['name']}) perplexity "
        f"is {rounded(best['perplexity'])}, after this plan's bare cut {rounded(opinion['bare_cut'])}."
    ]


def rounded(value: float) -> str:
    """Three figures, or all those before the point."""
    if value >= 1e7:
        return f"{value:.1e}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _named(layers: Sequence[int]) -> str:
    return f"layer{'' if len(layers) == 1 else 's'} {', '.join(map(str, layers))}"
