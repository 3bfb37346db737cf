"""Merging on manifolds (MKA, arXiv:2406.16330): neighbours whose states share most information become one."""

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from depthprune.errors import UserError
from depthprune.recovery.base import Evidence
from depthprune.recovery.merging import Merging
from depthprune.recovery.stack import Stack
from depthprune.selection import ByRecovery, Plan, Sizes

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import nn

    from depthprune.importance.base import Batches
    from depthprune.recovery.combination import WeightsOf


class ManifoldMerge(Merging):
    """W = λ W_i + (1 − λ) W_j for the most similar neighbours i < j, again and again until enough are gone.

    S_ij is the mutual information of the diffusion maps of the two layers' outputs over √(H_i·H_j),
    ρ = s_i / (s_i + s_j) with s the mean similarity to all other layers, λ = sigmoid(β·ρ). All parameters of
    a layer take part, norms and biases too.
    """

    paper: ClassVar[str] = "MKA (arXiv:2406.16330)"
    cost: ClassVar[str] = "K forward passes"
    method: Literal["manifold-merge"] = "manifold-merge"
    sigma: float = Field(8, gt=0)
    """σ of the kernel exp(−(D/σ)^½), in the units of the hidden states."""
    alpha: float = Field(0.5, ge=0, le=1)
    """The power of the density that the kernel is divided by."""
    dimensions: int = Field(2, ge=1)
    """Coordinates of a diffusion map."""
    mi_neighbors: int = Field(5, ge=1)
    entropy_neighbors: int = Field(50, ge=1)
    beta: float = 1.0

    @property
    def fewest_samples(self) -> int:
        """Each sample is a point, and needs its neighbours besides itself."""
        return max(self.mi_neighbors, self.entropy_neighbors, self.dimensions) + 1

    @property
    def weights_of(self) -> "WeightsOf":
        """Every parameter."""
        from depthprune.recovery.combination import all_weights

        return all_weights

    def choose(self, model: "nn.Module", evidence: Evidence, selection: ByRecovery, sizes: Sizes) -> Plan:
        """Merges pair by pair, every pair chosen by the states of the model as it is by then."""
        from depthprune.cost import Advancing, progress

        passes = selection.missing((), sizes)
        with progress(passes * len(evidence.batches), self.method) as advance:
            return self._merge(model, Advancing(evidence.batches, advance), selection, sizes)

    def _merge(self, model: "nn.Module", batches: "Batches", selection: ByRecovery, sizes: Sizes) -> Plan:
        from depthprune.recovery.combination import collapsed, kinds, refuse_unlike

        alike, removable = kinds(model), selection.removable(sizes)
        stack, search, notes = Stack.whole(sizes.num_layers), list[dict[str, Any]](), list[str]()
        while missing := selection.missing(stack.removed, sizes):
            left = stack.left
            pairs = [
                p
                for p in range(len(left) - 1)
                if left[p + 1] in removable and alike[left[p]] == alike[left[p + 1]]
            ]
            if not pairs and not stack.removed:
                raise refuse_unlike(model)
            if not pairs:
                notes.append(
                    f"{missing} layers fewer than asked for are merged: no neighbours are alike any more."
                )
                break
            with collapsed(model, stack, self.weights_of):
                similar = self._similarities(model, batches, left)
            first = max(pairs, key=lambda p: (similar[p, p + 1], p))
            share = self._share(similar, first)
            kept, gone = left[first], left[first + 1]
            search.append(
                {
                    "into": kept,
                    "layers": [gone],
                    "similarity": float(similar[first, first + 1]),
                    "share": share,
                }
            )
            stack = stack.combining({kept: share, gone: 1 - share})
        return stack.plan(search, notes)

    def _similarities(self, model: "nn.Module", batches: "Batches", left: Collection[int]) -> "ndarray":
        """S of the layers that are left, [n, n]."""
        import numpy as np

        from depthprune.recovery.manifold import diffusion_map, similarities
        from depthprune.recovery.states import sample_means

        states = sample_means(model, batches, left)
        maps = [
            diffusion_map(states[layer].double().numpy(), self.sigma, self.alpha, self.dimensions)
            for layer in left
        ]
        similar = similarities(maps, self.mi_neighbors, self.entropy_neighbors)
        flat = [layer for layer, row in zip(left, similar, strict=True) if np.isnan(row).all()]
        if flat:
            raise UserError(
                f"the states of layer {flat[0]} have no positive entropy over the calibration samples: give "
                "more or more varied ones, or another recovery.sigma"
            )
        return similar

    def _share(self, similar: "ndarray", first: int) -> float:
        """λ, the weight of the first layer of the pair."""
        import numpy as np

        mean = np.nanmean(similar, axis=1)
        both = mean[first] + mean[first + 1]
        ratio = float(mean[first] / both) if both > 0 else 0.5
        return 1 / (1 + math.exp(-self.beta * ratio))
