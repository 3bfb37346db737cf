"""Layer collapse (LaCo, arXiv:2402.11187): from the top down, several layers become one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from depthprune.errors import UserError
from depthprune.recovery.base import Evidence
from depthprune.recovery.merging import Merging
from depthprune.recovery.stack import Stack
from depthprune.selection import ByRecovery, Plan, Sizes, resolve_layers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from depthprune.importance.base import Batches
    from depthprune.recovery.combination import WeightsOf


class Collapse(Merging):
    """θ*_l = θ_l + Σ_{k=1..m} (θ_{l+k} − θ_l) on the linears, while the final hidden states stay similar.

    A merge is accepted where the mean cosine of the final hidden states with the original's exceeds
    `threshold`. θ_{l+k} are the layers as they are by then: a merged one may be merged again. θ_l is always
    the original's, since merging goes from the top down. Norms, biases and routers stay those of layer l.
    """

    paper: ClassVar[str] = "LaCo (arXiv:2402.11187)"
    cost: ClassVar[str] = "at most L forward passes"
    method: Literal["collapse"] = "collapse"
    merge_layers: int = Field(3, ge=2)
    """C = m + 1: how many layers become one in a merge; fewer where fewer are to go."""
    interval: int = Field(1, ge=1)
    """I: after a merge into layer l, the next one is tried at l − I."""
    threshold: float = Field(0.8, ge=-1, lt=1)
    """T: the mean cosine that a merge has to exceed."""
    lowest_layer: int = 0
    highest_layer: int = -1
    """Only layers in this range take part, both ends included; negative indices count from the end."""

    def complete(self, plan: Plan, scores: list[float]) -> Plan:
        """Refuses a range of layers that the model has not."""
        self._range(plan.num_layers)
        return plan

    @property
    def weights_of(self) -> "WeightsOf":
        """The linear weights."""
        from depthprune.recovery.combination import linears

        return linears

    def choose(self, model: "nn.Module", evidence: Evidence, selection: ByRecovery, sizes: Sizes) -> Plan:
        """Tries merges from the highest layer down until enough layers are gone.

        Raises `UserError` where no merge is accepted.
        """
        from depthprune.cost import Advancing, progress

        low, high = self._range(sizes.num_layers)
        with progress((high - low + 2) * len(evidence.batches), f"{self.method}, at most") as advance:
            return self._merge(model, Advancing(evidence.batches, advance), selection, sizes)

    def _merge(self, model: "nn.Module", batches: "Batches", selection: ByRecovery, sizes: Sizes) -> Plan:
        from depthprune.recovery.combination import collapsed, kinds
        from depthprune.recovery.states import final_states

        low, high = self._range(sizes.num_layers)
        alike, removable = kinds(model), selection.removable(sizes)
        whole = final_states(model, batches)
        stack, base, search = Stack.whole(sizes.num_layers), high, list[dict[str, Any]]()
        while missing := selection.missing(stack.removed, sizes):
            most = min(self.merge_layers - 1, missing)
            inside = [layer for layer in stack.left if low <= layer <= high]
            base = min(base, inside[max(0, len(inside) - 1 - most)])  # as many layers as are to be merged
            if base < low:
                break
            followers = _followers(inside, base, most, alike, removable)
            if not followers:
                base -= 1
                continue
            # θ_l + Σ (θ_{l+k} − θ_l)
            trial = stack.combining({base: 1.0 - len(followers), **dict.fromkeys(followers, 1.0)})
            with collapsed(model, trial, self.weights_of):
                cosine = mean_cosine(whole, final_states(model, batches))
            accepted = cosine > self.threshold
            search.append({"into": base, "layers": followers, "cosine": cosine, "accepted": accepted})
            stack, base = (trial, base - self.interval) if accepted else (stack, base - 1)
        return stack.plan(search, self._notes(stack, search, missing, model))

    def _range(self, depth: int) -> tuple[int, int]:
        (low,) = resolve_layers([self.lowest_layer], depth, "recovery.lowest_layer")
        (high,) = resolve_layers([self.highest_layer], depth, "recovery.highest_layer")
        if low >= high:
            raise UserError(
                f"recovery.lowest_layer is {low} and recovery.highest_layer {high}: merging needs two layers"
            )
        return low, high

    def _notes(
        self, stack: Stack, search: Sequence[dict[str, Any]], missing: int, model: "nn.Module"
    ) -> list[str]:
        if not search:
            from depthprune.recovery.combination import refuse_unlike

            raise refuse_unlike(model)
        if not stack.removed:
            best = max(search, key=lambda trial: trial["cosine"])
            raise UserError(
                f"no merge keeps the mean cosine above recovery.threshold={self.threshold:g}; the best, of "
                f"{len(best['layers']) + 1} layers into layer {best['into']}, gives {best['cosine']:.3f}: "
                "lower recovery.threshold or recovery.merge_layers, or widen the range of layers"
            )
        if not missing:
            return []
        gone = len(stack.removed)
        return [
            f"Only {gone} of the {gone + missing} layers asked for could be merged with a mean cosine above "
            f"{self.threshold:g}; lower recovery.threshold or recovery.merge_layers for more."
        ]


def _followers(
    inside: Sequence[int], base: int, most: int, alike: Sequence[Any], removable: set[int]
) -> list[int]:
    """The layers after `base` to merge into it: at most so many, none beyond one that cannot go."""
    found: list[int] = []
    for layer in inside[inside.index(base) + 1 :][:most]:
        if layer not in removable or alike[layer] != alike[base]:
            break
        found.append(layer)
    return found


def mean_cosine(one: "Sequence[Tensor]", other: "Sequence[Tensor]") -> float:
    """The mean cosine of matching tokens, in float32; where one is not finite, −1 stands for it.

    Args:
        one, other: hidden states [tokens, d] of each batch.
    """
    import torch
    from torch.nn.functional import cosine_similarity

    cosines = [cosine_similarity(a.float(), b.float(), dim=-1) for a, b in zip(one, other, strict=True)]
    return float(torch.cat(cosines).nan_to_num(-1.0).double().mean())
