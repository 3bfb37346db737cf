"""What the linear at the end of a branch is to write, fitted through the norm after it if there is one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from depthprune.recovery.flatten.fit import Grams, ridge
from depthprune.recovery.flatten.norms import Affine
from depthprune.recovery.through_norm import ThroughNorm, TokenBatches, held_if_small

# Of the fits through a norm: more lower the held-out error by less than 1 % on Gemma 3 270M.
STEPS = 12


@dataclass(frozen=True)
class Written:
    """The weight [n, d] of the last linear, its intercept [d] and the gain [d] of the norm after it.

    Attributes:
        rho: the strength of its ridge: λ = ρ times the mean eigenvalue of the curvature.
    """

    rho: float
    weight: Tensor
    intercept: Tensor | None = None
    gain: Tensor | None = None


def solutions(
    tokens: TokenBatches, start: Tensor, after: Affine | None, has_bias: bool, rhos: Sequence[float]
) -> list[Written]:
    """argmin Σ w‖t − out(Wᵀz + c)‖² + λ‖W − W⁰‖² for each ρ.

    Args:
        tokens: batches of (z [tokens, n], t [tokens, d], w [tokens]), as often as asked.
        start: W⁰, float64 [n, d].
        after: the norm that `out` is, None where what is written is added as it is.
        has_bias: whether there is a c.
    """
    if after is not None:
        return _through_norm(tokens, start, after, rhos)
    grams = Grams(tokens(), has_bias)
    every = torch.arange(len(start), device=start.device)
    found = []
    for rho in rhos:
        fit = ridge(grams, start, every, rho * grams.scale)
        found.append(Written(rho, fit.weight, grams.intercept(fit)))
    return found


def _through_norm(tokens: TokenBatches, start: Tensor, after: Affine, rhos: Sequence[float]) -> list[Written]:
    def without_shift() -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        for features, target, weights in tokens():
            yield features, target if after.shift is None else target - after.shift, weights

    problem = ThroughNorm(held_if_small(without_shift), start.float(), after.without_shift)
    fits = {rho: problem.fit(rho * problem.scale, STEPS) for rho in rhos}
    return [Written(rho, fit.weight, gain=fit.gain) for rho, fit in fits.items()]


@torch.no_grad()
def missed(tokens: TokenBatches, written: Written, after: Affine | None) -> float:
    """Σ w‖t − out(Wᵀz + c)‖² of one of these."""
    total = 0.0
    for features, target, weights in tokens():
        output = features.to(written.weight) @ written.weight
        if written.intercept is not None:
            output = output + written.intercept
        if after is not None:
            assert written.gain is not None
            output = written.gain * after.without_shift.direction(output)[0]
            output = output if after.shift is None else output + after.shift
        rest = target.to(output) - output
        total += float((weights.to(output) * rest.square().sum(dim=1)).double().sum())
    return total
