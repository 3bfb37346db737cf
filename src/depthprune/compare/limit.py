"""How much of the whole model's quality has to stay, whether it does, and the sentence about it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from depthprune.compare.noise import share_kept
from depthprune.errors import UserError
from depthprune.evaluation.measurement import LOWER_IS_BETTER
from depthprune.pipeline.inputs import Inputs

SURE = 2.0
"""Standard errors between a quality and what is to be kept, from which on the verdict is sure."""
ROUNDING = 1e-9
"""Below any difference of a measure, and above what 0.75 − 0.74 misses 0.01 by."""

Estimate = tuple[float, float]
"""A value, and its standard error."""


@dataclass(frozen=True)
class Limit:
    """What is asked of a pruned model: a share of the whole model's quality, or at most a drop of it.

    Attributes:
        by: `share` (the pruned model's quality over the whole one's; of a loss or perplexity the other way
            round), or `drop` (the whole model's quality less the pruned one's).
        asked: the least share, or the largest drop.
    """

    by: str
    asked: float

    def check(self, inputs: Inputs) -> None:
        """Refuses a drop of what has no scale of its own: of a text, perplexity and loss are measured."""
        if self.by == "drop" and inputs.evals and inputs.evals[0].kind == "text":
            raise UserError(
                f"--max-drop is for accuracy, exact match and the like, and on {inputs.evals[0].name} "
                "perplexity is measured: name the share to keep with --keep, such as --keep 0.98"
            )

    def verdict(self, mine: Estimate, whole: Estimate, metric: str) -> dict[str, Any]:
        """Whether `mine` is enough of `whole`, and whether the noise of both leaves that open."""
        (value, error), (wanted, wanted_error) = mine, whole
        share = share_kept(value, wanted, metric)
        drop = value - wanted if metric in LOWER_IS_BETTER else wanted - value
        if self.by == "drop":
            margin, noise = self.asked - drop, math.hypot(error, wanted_error)
        else:
            relative = math.hypot(error / value if value else 0.0, wanted_error / wanted if wanted else 0.0)
            margin, noise = share - self.asked, share * relative
        return {
            "value": value,
            "whole": wanted,
            "share": share,
            "drop": drop,
            "holds": margin >= -ROUNDING,
            "sure": abs(margin) > SURE * noise,
        }


def kept_sentence(one: Mapping[str, Any]) -> str:
    """What a search by a limit found for a method, of `kept` in comparison.json."""
    asked = f"{one['asked']:.3g}" if one["by"] == "drop" else f"{one['asked']:.0%}"
    beyond, counts = one.get("beyond", "below"), one.get("counts", "layers")
    if not one["removed"]:
        if beyond == "failed":
            return (
                f"How small {one['method']} may be is not known: a run with one of the {counts} gone failed."
            )
        said = f"loses no more than {asked}" if one["by"] == "drop" else f"keeps {asked}"
        return f"{one['method']} {said} of the whole model's quality with no layer gone."
    gone = (
        f"with {one['removed']} of {one['num_layers']} {counts} gone "
        f"({one['removed'] / one['num_layers']:.0%})"
    )
    metric, dataset = one["measure"]["metric"], one["measure"]["dataset"]
    less = (
        f"is more than {asked} below it with more" if one["by"] == "drop" else f"less than {asked} with more"
    )
    more = {"below": f", and {less}", "failed": "; with one more a run failed", "nothing": ""}[beyond]
    sure = "" if one["sure"] else "; that is within the noise of the limit"
    if one["by"] == "drop":
        side = "below" if one["drop"] >= 0 else "above"
        return (
            f"{one['method']} has {metric} {one['value']:.3f} on {dataset} {gone}, {abs(one['drop']):.3f} "
            f"{side} the whole model's{more}{sure}."
        )
    return (
        f"{one['method']} keeps {one['share']:.1%} of the whole model's {metric} on {dataset} {gone}"
        f"{more}{sure}."
    )
