"""A layer that does nothing, by hooks: what removing it is compared with."""

from typing import Any

from torch import Tensor, nn

HANDED_ON = {"ZayaDecoderLayer"}
"""Classes of layers whose second argument and output is handed on from layer to layer beside the first."""


def skip(layer: nn.Module) -> None:
    """Runs the layer, throws away what it computes, and notes on it that it is skipped."""
    given: list[tuple[Tensor, Any]] = []
    layer.skips = True

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        given.append((hidden.clone(), args[1] if type(layer).__name__ in HANDED_ON else None))

    def leave(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        hidden, beside = given.pop()
        if type(layer).__name__ in HANDED_ON:
            return hidden, beside
        return hidden if isinstance(output, Tensor) else (hidden, *output[1:])

    layer.register_forward_pre_hook(enter, with_kwargs=True)
    layer.register_forward_hook(leave)
