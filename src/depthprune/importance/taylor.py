"""Taylor importance (Shortened LLaMA, arXiv:2402.02834): what losing each weight would do to the loss."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.importance.base import Batches, MetricSettings
from depthprune.importance.damage import refuse_non_finite
from depthprune.model.anatomy import decoder_layers, linear_weights
from depthprune.model.freeze import all_frozen
from depthprune.model.head import IGNORED, next_tokens, summed_sample_losses
from depthprune.model.skip import skipped_layers

# |W ⊙ ∂L/∂W| is formed in float32 this many elements at a time.
_BLOCK_ELEMENTS = 2**22


class Taylor(MetricSettings):
    """s_i = Σ_{W in layer i} Σ |W ⊙ ∂L/∂W|, L the sum over the samples of each one's mean cross-entropy.

    To first order, |w · ∂L/∂w| is what the loss changes by without the weight w. W are the layer's linear
    weights, stacked experts among them; norms, biases and routers, which not every family has, are left out.
    The gradient is summed over all samples before the absolute value is taken. Memory: one gradient of these
    weights, in their dtype.
    """

    needs: ClassVar[Literal["gradients"]] = "gradients"
    paper: ClassVar[str] = "Shortened LLaMA (arXiv:2402.02834)"
    cost: ClassVar[str] = "1 forward and backward pass"
    metric: Literal["taylor"] = "taylor"

    @torch.enable_grad()
    def __call__(self, model: nn.Module, batches: Batches) -> Tensor:
        """Returns a float32 tensor [L] on the CPU; the model is left as it was. Skipped layers score 0.

        Raises:
            UserError: no sample has a token to predict, or a score is not finite.
        """
        scores = torch.zeros(len(decoder_layers(model)), dtype=torch.float64)
        weights = _weights_by_layer(model)

        def reduce(weight: nn.Parameter) -> None:
            scores[weights[weight]] += _sum_of_products(weight, weight.grad)
            weight.grad = None

        learnable = [batch for batch in batches if (next_tokens(batch) != IGNORED).any()]
        if not learnable:
            raise UserError(
                "taylor: no calibration sample has a token to predict; give samples of two tokens or more, "
                "with labels that are not all -100"
            )
        with _learning(model, list(weights)):
            for batch in learnable[:-1]:
                summed_sample_losses(model, batch).backward()
            loss = summed_sample_losses(model, learnable[-1])
            # The sums are complete as the last pass reaches a weight: it is reduced and freed at once.
            with _after_gradient(weights, reduce):
                loss.backward()
            for weight in weights:
                if weight.grad is not None:
                    reduce(weight)  # an expert that the last batch did not come by
        return refuse_non_finite(self.metric, scores.float(), model)


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
