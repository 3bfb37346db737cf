"""Σ |W ⊙ ∂L/∂W| of each layer, with one gradient of the linear weights in memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from depthprune.cost import with_progress
from depthprune.model.anatomy import decoder_layers, linear_weights
from depthprune.model.freeze import all_frozen
from depthprune.model.head import backward_sample_losses
from depthprune.model.skip import skipped_layers

# |W ⊙ ∂L/∂W| is formed in float32 this many elements at a time.
_BLOCK_ELEMENTS = 2**22


@torch.enable_grad()
def summed_products(model: nn.Module, batches: Sequence[dict[str, Tensor]]) -> Tensor:
    """Float64 [L], over batches that each have a token to predict; the model is left as it was."""
    scores = torch.zeros(len(decoder_layers(model)), dtype=torch.float64)
    weights = _weights_by_layer(model)

    def reduce(weight: nn.Parameter) -> None:
        scores[weights[weight]] += _sum_of_products(weight, weight.grad)
        weight.grad = None

    with _learning(model, list(weights)):
        for batch in with_progress(batches[:-1], "taylor"):
            backward_sample_losses(model, batch)
        # The sums are complete as the last pass reaches a weight: it is reduced and freed at once.
        with _after_gradient(weights, reduce):
            backward_sample_losses(model, batches[-1])
        for weight in weights:
            if weight.grad is not None:
                reduce(weight)  # an expert that the last batch did not come by
    return scores


def _weights_by_layer(model: nn.Module) -> dict[nn.Parameter, int]:
    """The linear weights of the layers that are not skipped, each with its layer."""
    gone = skipped_layers(model)
    return {
        weight.parameter: i
        for i, layer in enumerate(decoder_layers(model))
        if i not in gone
        for weight in linear_weights(layer).values()
    }


def _sum_of_products(weight: Tensor, gradient: Tensor | None) -> float:
    """Σ |W ⊙ ∂L/∂W|; the products are float32, whatever the dtype."""
    assert gradient is not None
    pairs = zip(
        weight.detach().flatten().split(_BLOCK_ELEMENTS),
        gradient.flatten().split(_BLOCK_ELEMENTS),
        strict=True,
    )
    return float(sum((w.float() * g.float()).abs_().sum() for w, g in pairs))


@contextmanager
def _learning(model: nn.Module, weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Inside the block these weights alone take gradients, from none, and the model is in eval mode."""
    gradients = [(weight, weight.grad) for weight in weights]
    with all_frozen(model):
        for weight in weights:
            weight.requires_grad_(True)
            weight.grad = None
        try:
            yield
        finally:
            for weight, gradient in gradients:
                weight.grad = gradient


@contextmanager
def _after_gradient(weights: dict[nn.Parameter, int], act: Callable[[nn.Parameter], None]) -> Iterator[None]:
    """Calls `act(weight)` as soon as a backward pass inside the block has added to a weight's gradient."""
    with ExitStack() as stack:
        for weight in weights:
            stack.callback(weight.register_post_accumulate_grad_hook(act).remove)
        yield
