"""By how much a layer's output moves with what one of its modules puts out: found by trial."""

import copy
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers, unwrap
from depthprune.model.hooks import hidden_state

# How far, relatively, a layer's output may move otherwise than m times the push: rounding in float32 is
# below 1e-5, a norm in between above 0.1.
TOLERANCE = 1e-3
PROBE_TOKENS = 8

Arguments = tuple[tuple, dict[str, Any]]


def call_arguments(model: nn.Module) -> list[Arguments]:
    """What each layer is called with for a few arbitrary tokens."""
    calls: list[Arguments] = []
    with ExitStack() as hooks, torch.no_grad():
        for layer in decoder_layers(model):
            handle = layer.register_forward_pre_hook(
                lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
            )
            hooks.callback(handle.remove)
        unwrap(model).base_model(input_ids=probe_tokens(model), use_cache=False)
    return calls


def probe_tokens(model: nn.Module) -> Tensor:
    """A few arbitrary tokens, [1, T]."""
    inner = unwrap(model)
    size = inner.config.get_text_config().vocab_size
    return (torch.arange(1, 1 + PROBE_TOKENS, device=inner.device) % size)[None]


def slope(layer: nn.Module, path: str, arguments: Arguments, i: int) -> float | None:
    """m, if the output of layer i moves by m times what is added to the output of its module at `path`.

    Tried with a random vector, on a float32 copy of the layer, out of the way of bf16's rounding. None where
    it moves otherwise, 0 where the module does not give one row for each token.
    Raises `UserError` for a layer whose output is not finite.
    """
    wide = copy.deepcopy(layer).float()
    holder, shapes = wide.get_submodule(path), []

    def output() -> Tensor:
        # Copies, since some layers add to their input in place.
        args, kwargs = float_copies(arguments)
        with torch.no_grad():
            return hidden_state(wide(*args, **kwargs))

    with_shape = holder.register_forward_hook(lambda _, __, out: shapes.append(out.shape))
    rest = output()
    with_shape.remove()
    if not rest.isfinite().all():
        raise UserError(f"layer {i}: its output is not finite; load the model in float32 or bfloat16")
    if len(shapes) != 1 or shapes[0].numel() != rest.numel():
        return 0.0
    push = torch.randn(rest.shape, generator=torch.Generator().manual_seed(0)).to(rest)
    push *= rest.square().mean().sqrt()
    pushed = holder.register_forward_hook(lambda _, __, out: out + push.reshape(out.shape))
    moved = output() - rest
    pushed.remove()
    found = float((moved * push).sum() / (push * push).sum())
    return None if (moved - found * push).norm() > TOLERANCE * moved.norm() or found == 0 else found


def float_copies(arguments: Arguments) -> Arguments:
    """The arguments with copies of their floating point tensors, in float32."""

    def copied(value: Any) -> Any:
        floats = isinstance(value, Tensor) and value.is_floating_point()
        return value.detach().to(torch.float32, copy=True) if floats else value

    return tree_map(copied, arguments)
