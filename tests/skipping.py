"""A layer that does nothing, by hooks: what removing it is compared with."""

from typing import Any

from torch import Tensor, nn


def skip(layer: nn.Module) -> None:
    """Runs the layer, throws away what it computes, and notes on it that it is skipped."""
    given: list[Tensor] = []
    layer.skips = True

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append((args[0] if args else kwargs["hidden_states"]).clone())

    def leave(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return given.pop() if isinstance(output, Tensor) else (given.pop(), *output[1:])

    layer.register_forward_pre_hook(enter, with_kwargs=True)
    layer.register_forward_hook(leave)
