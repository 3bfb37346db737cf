"""The residual stream before and after each decoder layer, taken by hooks on the layers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from depthprune.model.anatomy import decoder_layers, unwrap


def hidden_state(output: Any) -> Tensor:
    """A layer's output hidden state [B, T, d], be the output a tensor or a tuple that begins with it."""
    return output if isinstance(output, Tensor) else output[0]


def layer_input(args: tuple, kwargs: Mapping[str, Any]) -> Tensor:
    """The hidden state [B, T, d] that a layer is called with, by position or by name."""
    return args[0] if args else kwargs["hidden_states"]


@dataclass(frozen=True)
class Call:
    """What the model gives one of its layers besides the hidden states: masks, position embeddings."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def of(cls, args: tuple, kwargs: Mapping[str, Any]) -> "Call":
        """Of a layer's arguments, without the hidden states that are among them."""
        return cls(args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"})

    def __call__(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """The output of a layer on these hidden states, [B, T, d]."""
        # A copy, since some layers add to their input in place.
        return hidden_state(layer(hidden.clone(), *self.args, **self.kwargs))

    def in_float32(self) -> "Call":
        """For layers in float32."""
        return Call(*as_float32((self.args, self.kwargs)))


def as_float32(arguments: Any) -> Any:
    """The same with its floating point tensors in float32, wherever in tuples, lists and dicts they are."""
    return tree_map(
        lambda value: value.float() if isinstance(value, Tensor) and value.is_floating_point() else value,
        arguments,
    )


def for_each_layer_io(
    model: nn.Module, batch: Mapping[str, Tensor], visit: Callable[[int, Tensor, Tensor], None]
) -> None:
    """Runs one forward pass and calls `visit(i, before, after)` at each layer, both hidden states [B, T, d].

    Holds one layer's input at a time. The input is a copy, since some families add to the residual stream in
    place; the output is the tensor itself: copy it to keep it. The head is not run, `labels` are ignored.
    """
    inputs: dict[int, Tensor] = {}

    def enter(i: int, args: tuple, kwargs: dict) -> None:
        inputs[i] = layer_input(args, kwargs).clone()

    def leave(i: int, output: Any) -> None:
        visit(i, inputs.pop(i), hidden_state(output))

    handles = []
    for i, layer in enumerate(decoder_layers(model)):
        handles.append(
            layer.register_forward_pre_hook(
                lambda _, args, kwargs, i=i: enter(i, args, kwargs), with_kwargs=True
            )
        )
        handles.append(layer.register_forward_hook(lambda _, args, output, i=i: leave(i, output)))
    try:
        # The head is not needed, and neither is its loss.
        inner = unwrap(model)
        read = {key: value.to(inner.device) for key, value in batch.items() if key != "labels"}
        inner.base_model(**read, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()


def record_layer_io(model: nn.Module, batch: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """The hidden states before and after each layer, [B, T, d] each: h_i and h_{i+1} for layer i.

    Keeps 2·L hidden states; `for_each_layer_io` keeps one.
    """
    states: list[tuple[Tensor, Tensor]] = []
    for_each_layer_io(model, batch, lambda i, before, after: states.append((before, after.clone())))
    return states
