"""What a block of layers is given and what it makes of it: the task of a layer that stands for the block."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.cost import with_progress
from depthprune.model.anatomy import decoder_layers, unwrap
from depthprune.model.hooks import Call, hidden_state, layer_input
from depthprune.model.skip import skipped
from depthprune.recovery.states import Batch, on_device


@dataclass(frozen=True)
class BlockStates:
    """One batch at a block of layers.

    Attributes:
        before, after: h_f and h_{f+K+1}, [B, T, d], on the CPU in the model's dtype.
        call: of layer f.
        real: the real tokens, [B, T].
    """

    before: Tensor
    after: Tensor
    call: Call
    real: Tensor

    @property
    def tokens(self) -> int:
        return int(self.real.sum())

    def error(self, layer: nn.Module) -> Tensor:
        """The mean squared error of the layer's output against the block's, over real tokens and dimensions.

        Of a layer in float32; everything it is given becomes float32 too.
        """
        output = self.call.in_float32()(layer, self.before.to(self.real.device, torch.float32))
        wanted = self.after.to(self.real.device, torch.float32)
        return torch.nn.functional.mse_loss(output[self.real], wanted[self.real])


@torch.no_grad()
def block_states(model: nn.Module, batches: Sequence[Batch], first: int, last: int) -> list[BlockStates]:
    """The states around the layers `first` to `last` of the whole model, a forward pass a batch."""
    layers = decoder_layers(model)
    return [
        _of_batch(model, layers, inputs, real, first, last)
        for inputs, real in on_device(model, with_progress(batches, "block states"))
    ]


def _of_batch(
    model: nn.Module, layers: nn.ModuleList, inputs: Batch, real: Tensor, first: int, last: int
) -> BlockStates:
    entered: list[tuple[Tensor, Call]] = []
    left: list[Tensor] = []

    def enter(_: nn.Module, args: tuple, kwargs: dict) -> None:
        entered.append((layer_input(args, kwargs).to("cpu", copy=True), Call.of(args, kwargs)))

    def leave(_: nn.Module, __: tuple, output: Any) -> None:
        left.append(hidden_state(output).to("cpu", copy=True))

    handles = [
        layers[first].register_forward_pre_hook(enter, with_kwargs=True),
        layers[last].register_forward_hook(leave),
    ]
    try:
        with skipped(model, range(last + 1, len(layers))):  # nothing after the block is needed
            unwrap(model).base_model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    ((before, call),) = entered
    return BlockStates(before, left[0], call, real)


@torch.inference_mode()
def mean_error(layer: nn.Module, states: Sequence[BlockStates]) -> float:
    """The mean squared error over all real tokens and dimensions, of the layer in float32."""
    student = copy.deepcopy(layer).float()
    tokens = sum(state.tokens for state in states)
    return sum(float(state.error(student)) * state.tokens for state in states) / tokens
