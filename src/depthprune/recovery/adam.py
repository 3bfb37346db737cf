"""GradMAP's own solver of its least squares (arXiv:2602.14649, eq. 10–12): Adam over calibration tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.enable_grad()
def adam_change(
    pairs: Sequence[tuple[Tensor, Tensor]], penalty: float, epochs: int, learning_rate: float
) -> Tensor:
    """Δ = W' − I after Adam on ‖E − ΔY‖² + λ‖Δ‖², a step a batch, from Δ = 0; float64 [d, d].

    `pairs` are batches of (E, Y), [tokens, d] each, held in memory. A step's loss is the batch's share of the
    objective, a token and element; the scale does not matter to Adam.
    """
    size, tokens = pairs[0][1].shape[-1], sum(len(error) for error, _ in pairs)
    change = torch.zeros(size, size, dtype=pairs[0][1].dtype, device=pairs[0][1].device, requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=learning_rate)
    for _ in range(epochs):
        for error, contribution in pairs:
            missed = (error - contribution @ change.mT).square().mean()
            loss = missed + penalty / (tokens * size) * change.square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return change.detach().double()
