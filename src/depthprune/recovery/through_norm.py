"""Least squares through a norm: a linear map, and the gain of the norm after it, fitted to what comes out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from depthprune.recovery.lbfgs import minimise
from depthprune.recovery.least_squares import RANK_TOLERANCE

# Features f [tokens, n], targets T [tokens, d], weights of the tokens w [tokens].
TokenBatches = Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]]

# Steps after the closed form, each a pass over the tokens, and the relative decrease that is not worth one.
STEPS, ENOUGH = 20, 1e-6
# A gain is large beyond so many times the present one; columns then grow up to this share of the usual size.
LARGE_GAIN, SMALL_COLUMN = 10.0, 0.1
# Batches that take no more than this are held in memory between passes.
HELD_BYTES = 2**30


@dataclass(frozen=True)
class Norm:
    """g ⊙ N(z), with N(z) = z / √(mean(z²) + ε); `centred` as LayerNorm is, of z minus its mean.

    A bias added afterwards is the caller's to take off the target.
    """

    gain: Tensor
    epsilon: float
    centred: bool = False

    def __call__(self, z: Tensor) -> Tensor:
        """g ⊙ N(z), [tokens, d]."""
        return self.gain.to(z) * self.direction(z)[0]

    def direction(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """N(z) [tokens, d], and the length that z was divided by, [tokens, 1]."""
        z = z - z.mean(-1, keepdim=True) if self.centred else z
        length = (z.square().mean(-1, keepdim=True) + self.epsilon).sqrt()
        return z / length, length

    def back(self, gradient: Tensor, direction: Tensor, length: Tensor) -> Tensor:
        """The gradient by z, of the one by N(z)."""
        along = (gradient * direction).mean(-1, keepdim=True)
        by_z = (gradient - along * direction) / length
        return by_z - by_z.mean(-1, keepdim=True) if self.centred else by_z


@dataclass(frozen=True)
class NormFit:
    """Weight [n, d] and gain [d], with Σ w‖T − g ⊙ N(Wᵀf)‖² (without the ridge) before and after."""

    weight: Tensor
    gain: Tensor
    error: float
    error_before: float


class ThroughNorm:
    """Minimises Σ_t w_t ‖T_t − g ⊙ N(Wᵀ f_t)‖² + λ‖W − W⁰‖² over W and g, for one λ after the other.

    The start is a closed form: with the lengths of the present Wᵀf held fixed, what is left is linear in W.
    From there L-BFGS on the objective itself, in coordinates in which its Gauss–Newton matrix, taken for the
    product of one in f and one in the norm's input, is the identity.

    `batches` is called once for each pass over the tokens. Kept beside the batch at hand: two n×n and two d×d
    matrices in float64, and about 20 of n×d in the dtype of `start`, in which it is computed.
    """

    def __init__(self, batches: TokenBatches, start: Tensor, norm: Norm) -> None:
        self.batches, self.start = batches, start
        self.norm = Norm(norm.gain.to(start), norm.epsilon, norm.centred)
        self._pull = torch.zeros_like(start)
        self._energy = torch.zeros_like(self.norm.gain)
        self.error_before, self.tokens, total = 0.0, 0, 0.0
        n, d = start.shape
        gram, inner = (start.new_zeros(k, k, dtype=torch.float64) for k in (n, d))
        for f, target, w in self._computed():
            u, length = self.norm.direction(f @ start)
            rest = target - self.norm.gain * u
            gram += (f * (w / length.square())).double().mT @ f.double()
            inner += self._curvature(u.double(), w.double())
            self._pull += (f * (w / length)).mT @ (rest * self.norm.gain)
            self._energy += (w * u.square()).sum(0)
            self.error_before += float((w * rest.square()).double().sum())
            self.tokens += len(f)
            total += float(w.sum())
        self._outer, self._inner = _eigen(gram, start), _eigen(inner / total, start)
        lowest, highest = self._outer.known
        self.is_singular = lowest <= RANK_TOLERANCE * highest

    @property
    def scale(self) -> float:
        """The mean curvature of the objective in an entry of W: λ = ρ times this."""
        return float(self._outer.values.mean() * self._inner.values.mean())

    def fit(self, penalty: float, steps: int = STEPS, enough: float = ENOUGH) -> NormFit:
        """The minimum for λ = `penalty`; never above the objective at the start."""
        size, (outer, inner) = self.start.numel(), (self._outer, self._inner)
        stretch = (outer.values[:, None] * inner.values + penalty).sqrt()
        energy = self._energy.clamp(min=float(self._energy.mean()) * 1e-6).sqrt()

        def unpacked(x: Tensor) -> tuple[Tensor, Tensor]:
            change = outer.vectors @ (x[:size].view_as(self.start) / stretch) @ inner.vectors.mT
            return self.start + change, x[size:] / energy

        def packed(weight: Tensor, gain: Tensor) -> Tensor:
            change = outer.vectors.mT @ (weight - self.start) @ inner.vectors
            return torch.cat([(change * stretch).flatten(), gain * energy])

        def objective(x: Tensor) -> tuple[float, Tensor]:
            value, by_weight, by_gain = self._half_objective(*unpacked(x), penalty)
            by_change = outer.vectors.mT @ by_weight @ inner.vectors / stretch
            return value, torch.cat([by_change.flatten(), by_gain / energy])

        closed = self._refitted(self._near(self._at_fixed_lengths(penalty)))
        starts = [packed(self.start, self.norm.gain), packed(*closed[:2])]
        weight, _ = unpacked(minimise(objective, starts, steps, enough))
        return NormFit(*self._refitted(self._near(weight)), self.error_before)

    def _computed(self) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        for f, target, w in self.batches():
            yield f.to(self.start), target.to(self.start), w.to(self.start)[:, None]

    def _curvature(self, u: Tensor, w: Tensor) -> Tensor:
        """Σ w P diag(g²) P, [d, d], with P = I − uuᵀ/d: of the error in the norm's input, at length 1."""
        square, d = self.norm.gain.to(u).square(), u.shape[-1]
        cross = (u * w).mT @ (u * square) / d
        rest = (u * (w * (u.square() @ square)[:, None])).mT @ u / d**2
        return float(w.sum()) * square.diag() - cross - cross.mT + rest

    def _at_fixed_lengths(self, penalty: float) -> Tensor:
        """The minimum over W where each token's Wᵀf is divided by the length that it has at the start."""
        square, (values, vectors, _) = self.norm.gain.square(), self._outer
        square = square.clamp(min=float(square.max()) * _rounding(self.start.dtype))
        return self.start + vectors @ (vectors.mT @ self._pull / (values[:, None] * square + penalty))

    def _half_objective(self, weight: Tensor, gain: Tensor, penalty: float) -> tuple[float, Tensor, Tensor]:
        """Half the objective, and its gradients by W and g."""
        change = weight - self.start
        value = penalty * float(change.square().sum())
        by_weight, by_gain = penalty * change, torch.zeros_like(gain)
        for f, target, w in self._computed():
            u, length = self.norm.direction(f @ weight)
            rest = gain * u - target
            value += float((w * rest.square()).double().sum())
            by_weight += f.mT @ self.norm.back(w * rest * gain, u, length)
            by_gain += (w * rest * u).sum(0)
        return value / 2, by_weight, by_gain

    def _near(self, weight: Tensor) -> Tensor:
        """The multiple of a weight that is nearest to W⁰: what comes out of the norm is the same."""
        factor = float((weight * self.start).sum() / weight.square().sum())
        return weight * factor if factor > 0 else weight

    def _refitted(self, weight: Tensor) -> tuple[Tensor, Tensor, float]:
        """A weight, the best gain for it, and the error that they leave.

        A column of nearly nothing that a huge gain makes up for is made larger first: the gradients of such a
        column are as huge, and no training would survive them.
        """
        gain, energy, error = self._best_gain(weight)
        usual = self.norm.gain.abs().clamp(min=float(self.norm.gain.abs().mean()))
        room = SMALL_COLUMN * (energy.mean() / energy.clamp(min=torch.finfo(energy.dtype).tiny)).sqrt()
        growth = torch.minimum(gain.abs() / (LARGE_GAIN * usual), room).clamp(min=1)
        if bool((growth == 1).all()):
            return weight, gain, error
        weight = weight * growth
        gain, _, error = self._best_gain(weight)
        return weight, gain, error

    def _best_gain(self, weight: Tensor) -> tuple[Tensor, Tensor, float]:
        """The best gain for a weight, Σ w·N(Wᵀf)² by channel [d], and the error that is left."""
        energy, cross, total = torch.zeros_like(self._energy), torch.zeros_like(self._energy), 0.0
        for f, target, w in self._computed():
            u, _ = self.norm.direction(f @ weight)
            energy += (w * u.square()).sum(0)
            cross += (w * target * u).sum(0)
            total += float((w * target.square()).double().sum())
        awake = energy > energy.mean() * _rounding(energy.dtype) ** 2
        gain = torch.where(awake, cross / energy, self.norm.gain)
        error = total - float((gain * (2 * cross - gain * energy)).double().sum())
        return gain, energy, error


class Eigen(NamedTuple):
    """Eigenvalues, none below what rounding hides, eigenvectors, and the lowest and highest as they were."""

    values: Tensor
    vectors: Tensor
    known: tuple[float, float]


def _eigen(matrix: Tensor, like: Tensor) -> Eigen:
    values, vectors = torch.linalg.eigh(matrix)
    lowest, highest = float(values[0]), float(values[-1])
    # Below that, rounding would be stretched into a direction of its own.
    values = values.clamp(min=highest * _rounding(like.dtype))
    return Eigen(values.to(like), vectors.to(like), (lowest, highest))


def _rounding(dtype: torch.dtype) -> float:
    return max(RANK_TOLERANCE, torch.finfo(dtype).eps)


def squared_error(batches: TokenBatches, norm: Norm, change: Tensor | None = None) -> float:
    """Σ w‖T − g ⊙ N(f + Δf)‖² over the tokens, f [tokens, d] and Δ [d, d]."""
    total = 0.0
    for f, target, w in batches():
        z = f.double() if change is None else f.double() + f.double() @ change.double().mT
        total += float((w.double() * (target.double() - norm(z)).square().sum(-1)).sum())
    return total


def held_if_small(batches: TokenBatches, limit: int = HELD_BYTES) -> TokenBatches:
    """The same batches, held in memory if all take at most `limit` bytes, else made anew for each pass."""
    held, used = [], 0
    for batch in batches():
        used += sum(tensor.nbytes for tensor in batch)
        if used > limit:
            return batches
        held.append(batch)
    return lambda: held
