"""Ridge regression of an error on a contribution, from d×d sums streamed over calibration tokens."""

from collections.abc import Iterable

import torch
from torch import Tensor

from depthprune.errors import UserError

# Eigenvalues of YYᵀ below this share of the largest are rounding.
RANK_TOLERANCE = 1e-13


class Moments:
    """Sums over tokens of errors E and contributions Y, [d] a token: what any linear map of Y onto E needs.

    Attributes:
        gram: YYᵀ, float64 [d, d].
        cross: EYᵀ, float64 [d, d].
        energy: ‖E‖².
        tokens: the number of tokens.
    """

    def __init__(self, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
        """`pairs` are batches of (E, Y), [tokens, d] each."""
        self.gram, self.cross = torch.zeros(()), torch.zeros(())
        self.energy, self.tokens = 0.0, 0
        for error, contribution in pairs:
            # In float64: one direction of massive activations hides all others from a float32 sum.
            e, y = error.double(), contribution.double()
            self.gram = self.gram.to(y) + y.mT @ y
            self.cross = self.cross.to(y) + e.mT @ y
            self.energy += float(e.square().sum())
            self.tokens += len(e)

    @property
    def scale(self) -> float:
        """tr(YYᵀ)/d, the mean eigenvalue of YYᵀ: λ = ρ times this."""
        return float(self.gram.diagonal().mean())

    def squared_error(self, change: Tensor) -> float:
        """‖E − ΔY‖² of a change Δ = W' − I, [d, d]."""
        return self.energy + float(((change @ self.gram - 2 * self.cross) * change).sum())

    def relative_error(self, change: Tensor) -> float:
        """‖E − ΔY‖² / ‖E‖², 1 for no change."""
        return self.squared_error(change) / self.energy if self.energy else 1.0

    def objective(self, change: Tensor, penalty: float) -> float:
        """‖E − ΔY‖² + λ‖Δ‖²."""
        return self.squared_error(change) + penalty * float(change.square().sum())


class Ridge:
    """One eigendecomposition of YYᵀ, which serves every λ."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self.values, self.vectors = torch.linalg.eigh(moments.gram)

    @property
    def is_singular(self) -> bool:
        """Whether there is no inverse of YYᵀ without λ."""
        return bool(self.values[0] <= RANK_TOLERANCE * self.values[-1])

    def toward_identity(self, penalty: float) -> Tensor:
        """argmin ‖E − ΔY‖² + λ‖Δ‖²: Δ = EYᵀ (YYᵀ + λI)⁻¹, float64 [d, d]."""
        return self._divide(self.moments.cross, penalty)

    def toward_zero(self, penalty: float) -> Tensor:
        """argmin ‖E − ΔY‖² + α‖I + Δ‖²: Δ = (EYᵀ − αI)(YYᵀ + αI)⁻¹, float64 [d, d]."""
        identity = torch.eye(len(self.values), dtype=self.values.dtype, device=self.values.device)
        return self._divide(self.moments.cross - penalty * identity, penalty)

    def _divide(self, numerator: Tensor, penalty: float) -> Tensor:
        return (numerator @ self.vectors / (self.values + penalty)) @ self.vectors.mT


def singular(tokens: int, width: int, layer: int, mend: str) -> UserError:
    """The error to raise where λ = 0 meets a singular YYᵀ."""
    return UserError(
        f"layer {layer}: the {tokens} calibration tokens to fit on do not span the {width} dimensions of the "
        f"hidden state, and YYᵀ is singular: {mend}"
    )
