"""Ridge regression on chosen features: which of two layers' heads and channels stay, and their weights."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class Grams:
    """Weighted sums over tokens of features z [n] and targets t [d]: all that a linear fit of t on z needs.

    With `centred`, of z and t less their means: the fit then has an intercept of its own.

    Attributes:
        gram: Σ w·z zᵀ, float64 [n, n].
        cross: Σ w·z tᵀ, float64 [n, d].
        energy: Σ w·‖t‖².
    """

    def __init__(self, parts: Iterable[tuple[Tensor, Tensor, Tensor]] = (), centred: bool = False) -> None:
        """`parts` are batches of (z, t, w), [tokens, n], [tokens, d] and [tokens]; `add` takes more."""
        self.gram, self.cross, self.energy = torch.zeros(()), torch.zeros(()), 0.0
        self.centred, self._total = centred, 0.0
        self._features, self._targets = torch.zeros(()), torch.zeros(())
        for features, targets, weights in parts:
            self.add(features, targets, weights)

    def add(self, features: Tensor, targets: Tensor, weights: Tensor) -> None:
        """Takes in a batch."""
        # In float64: one direction of massive activations hides all others from a float32 sum.
        z, t, w = features.double(), targets.double(), weights.double()[:, None]
        self.gram = self.gram.to(z) + (w * z).mT @ z
        self.cross = self.cross.to(z) + (w * z).mT @ t
        self.energy += float((w * t.square()).sum())
        if self.centred:
            self._recentre(z, t, w)

    def _recentre(self, z: Tensor, t: Tensor, w: Tensor) -> None:
        """Keeps the sums those of z and t less their means so far, as in a running variance."""
        before, here = self._total, float(w.sum())
        means = (w * z).sum(0) / here, (w * t).sum(0) / here
        self.gram -= here * means[0].outer(means[0])
        self.cross -= here * means[0].outer(means[1])
        self.energy -= here * float(means[1].square().sum())
        apart = means[0] - self._features.to(z), means[1] - self._targets.to(t)
        self._total = before + here
        share = before * here / self._total
        self.gram += share * apart[0].outer(apart[0])
        self.cross += share * apart[0].outer(apart[1])
        self.energy += share * float(apart[1].square().sum())
        self._features = self._features.to(z) + here / self._total * apart[0]
        self._targets = self._targets.to(t) + here / self._total * apart[1]

    @property
    def scale(self) -> float:
        """tr(G)/n, the mean eigenvalue of the Gram: λ = ρ times this."""
        return float(self.gram.diagonal().mean())

    def squared_error(self, chosen: Tensor, weight: Tensor) -> float:
        """Σ w·‖t − Wᵀz_S‖² of a weight W [s, d] on the features `chosen`, [s]."""
        gram, cross = self.gram[chosen][:, chosen], self.cross[chosen]
        return self.energy + float(((gram @ weight - 2 * cross) * weight).sum())

    def intercept(self, fit: "Fit") -> Tensor | None:
        """What the fit leaves of the target's mean, [d], where it has an intercept."""
        if not self.centred:
            return None
        return self._targets - fit.weight.mT @ self._features[fit.chosen]


@dataclass(frozen=True)
class Fit:
    """Features that stay, ascending [s], and their weight [s, d]."""

    chosen: Tensor
    weight: Tensor


def ridge(grams: Grams, prior: Tensor, chosen: Tensor, penalty: float) -> Fit:
    """argmin over W of Σ w·‖t − Wᵀz_S‖² + λ‖W − W⁰_S‖²: (G_S + λI) W = C_S + λW⁰_S.

    Args:
        prior: W⁰, [n, d], the weights that the features have.
        chosen: S, ascending [s].
        penalty: λ.
    """
    left = grams.gram[chosen][:, chosen].clone()
    left.diagonal().add_(penalty)
    right = grams.cross[chosen] + penalty * prior[chosen]
    return Fit(chosen, torch.linalg.solve(left, right))


def without_worst_groups(
    grams: Grams, prior: Tensor, groups: Sequence[Tensor], keep: int, penalty: float
) -> tuple[list[int], Fit]:
    """Backward elimination: the group whose loss raises the objective least goes, until `keep` are left.

    With P = (G_S + λI)⁻¹ and W = P(C_S + λW⁰_S), the objective of `ridge` without group g is larger by
    tr(W_gᵀ P_gg⁻¹ W_g) − λ‖W⁰_g‖²: no fit is made again to try one, and P and W of the rest follow by one
    block elimination.

    Returns: the numbers of the groups that stay, and the fit on their features.
    """
    left = list(range(len(groups)))
    index = torch.cat([groups[g] for g in left])
    matrix = grams.gram[index][:, index].clone()
    matrix.diagonal().add_(penalty)
    inverse = torch.linalg.inv(matrix)
    weight = inverse @ (grams.cross[index] + penalty * prior[index])
    while len(left) > keep:
        places = {g: torch.isin(index, groups[g]) for g in left}
        worst = min(left, key=lambda g: _rise(inverse, weight, prior[groups[g]], places[g], penalty))
        gone, stay = places[worst], ~places[worst]
        pivot = torch.linalg.solve(
            inverse[gone][:, gone], torch.cat([inverse[gone][:, stay], weight[gone]], dim=1)
        )
        across, split = inverse[stay][:, gone], int(stay.sum())
        weight = weight[stay] - across @ pivot[:, split:]
        inverse = inverse[stay][:, stay] - across @ pivot[:, :split]
        index = index[stay]
        left.remove(worst)
    order = index.argsort()
    return left, Fit(index[order], weight[order])


def _rise(inverse: Tensor, weight: Tensor, prior: Tensor, place: Tensor, penalty: float) -> float:
    """How much the objective rises when the features at `place` go."""
    own = weight[place]
    solved = torch.linalg.solve(inverse[place][:, place], own)
    return float((own * solved).sum()) - penalty * float(prior.square().sum())


def strongest_channels(grams: Grams, prior: Tensor, keep: int, penalty: float) -> Fit:
    """The `keep` features that a first fit on all of them leans on most, and the fit on those alone.

    A feature's strength is its energy times its row of the first fit: G_cc·‖W_c‖².
    """
    every = torch.arange(len(grams.gram), device=grams.gram.device)
    first = ridge(grams, prior, every, penalty).weight
    strength = grams.gram.diagonal() * first.square().sum(dim=1)
    return ridge(grams, prior, strength.topk(keep).indices.sort().values, penalty)
