"""One layer trained on what a pair gives, from a start in closed form; held-out loss says when to stop."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from depthprune.cost import with_progress
from depthprune.model.offloaded import at_hand
from depthprune.recovery.flatten.pair import Heads, Pair
from depthprune.recovery.flatten.stream import PairStates, in_float32

EPOCHS, PATIENCE, LEARNING_RATE = 20, 2, 1e-4
SEED = 0
"""Of the order of the batches."""


@torch.enable_grad()
def trained(
    start: nn.Module, pair: Pair, heads: Heads, loss_of: Callable[[nn.Module], float], epochs: int = EPOCHS
) -> tuple[nn.Module, int]:
    """Adam on Σ ‖ĥ_b − h_b‖²/‖h_b‖², a step a batch; the layer and the epochs with the lowest held-out loss.

    After LLM-Streamline (arXiv:2403.19135), with the tokens weighted. It ends when the held-out loss has not
    fallen for two epochs, since the error that is trained on goes on falling.

    Args:
        start: is left as it is.
        loss_of: the held-out loss with a layer in the pair's place, in the dtype of `start`.
    """
    layer = in_float32(start)
    parameters = [parameter.requires_grad_() for parameter in layer.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
    order = torch.Generator().manual_seed(SEED)
    best, best_epochs, lowest = start, 0, loss_of(start)
    for epoch in with_progress(range(1, epochs + 1), f"layer for {pair.first} and {pair.second}"):
        for i in torch.randperm(len(pair.fit), generator=order).tolist():
            _error(layer, pair.fit[i], heads).backward()
            optimizer.step()
            optimizer.zero_grad()
        now = _like(start, layer)
        loss = loss_of(now)
        if loss < lowest:
            best, best_epochs, lowest = now, epoch, loss
        elif epoch - best_epochs >= PATIENCE:
            break
    return best, best_epochs


def _error(layer: nn.Module, state: PairStates, heads: Heads) -> torch.Tensor:
    """The mean over tokens of ‖ĥ_b − h_b‖²/‖h_b‖²."""
    missed = (state.calls[heads == "second"](layer, state.before) - state.after)[state.real]
    return (missed.square().sum(dim=-1) * state.weights.float()).mean()


@torch.no_grad()
def _like(start: nn.Module, layer: nn.Module) -> nn.Module:
    """A copy of `start` with the layer's weights, in its dtype."""
    with at_hand(start):
        found = copy.deepcopy(start)
    for parameter, weight in zip(found.parameters(), layer.parameters(), strict=True):
        parameter.copy_(weight)
    return found
