"""The residual stream stretched where layers are gone, in passing or folded into the layers behind."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.model.anatomy import (
    DOWN_PROJECTIONS,
    decoder,
    decoder_layers,
    is_mixture,
    linear_weights,
    one_of_each_kind,
    unwrap,
)
from depthprune.model.hooks import as_float32, hidden_state, layer_input
from depthprune.model.parts import ATTENTION_OUTPUTS, layer_parts
from depthprune.model.skip import skipped
from depthprune.model.walk import each_layer_io
from depthprune.recovery.norm_after import known_norm
from depthprune.recovery.slope import Arguments, call_arguments, probe_tokens
from depthprune.recovery.states import Batch, on_device

# How far, relatively, a layer may be from one that only sees directions: rounding in float32 is below 1e-5,
# a layer that reads the stream without a norm above 0.1.
TOLERANCE = 1e-3
# Takes embeddings so far above a norm's eps that it plays no part in the trial.
LARGE = 1e3
TRIED = 2.0


@torch.inference_mode()
def log_norms(model: nn.Module, batches: Sequence[Batch]) -> Tensor:
    """E_t[ln ‖h_i[t]‖₂] over real tokens, of layer 0's input and each layer's output: float64 [L + 1]."""
    sums = torch.zeros(len(decoder_layers(model)) + 1, dtype=torch.float64)
    masks = [real for _, real in on_device(model, batches)]

    def add(n: int, i: int, before: Tensor, after: Tensor) -> None:
        if i == 0:
            sums[0] += _log_norm(before, masks[n])
        sums[i + 1] += _log_norm(after, masks[n])

    each_layer_io(model, batches, add)
    return sums / sum(int(real.sum()) for real in masks)


def gap_factors(norms: Tensor, removed: Sequence[int]) -> dict[int, float]:
    """The first layer of each gap → α, how many times longer the stream was behind it than before it.

    α = exp(E_t[ln ‖h_{l+1}‖ − ln ‖h_f‖]) for layers f to l: a geometric mean, so that the factors of
    neighbouring gaps multiply to that of both. A gap at the end has none: the final norm takes it out.
    """
    gone, depth = set(removed), len(norms) - 1
    found = {}
    for first in sorted(gone):
        if first - 1 in gone:
            continue
        after = next((i for i in range(first, depth) if i not in gone), None)
        if after is not None:
            found[first] = float((norms[after] - norms[first]).exp())
    return found


@contextmanager
def stretched(model: nn.Module, factors: Mapping[int, float]) -> Iterator[None]:
    """Inside the block, what leaves each of these layers is multiplied by its factor; no weight is changed.

    The layers are those that `skipped` leaves out just now.
    """
    layers = decoder_layers(model)

    def times(output: Any, factor: float) -> Any:
        if isinstance(output, Tensor):
            return output * factor
        return (output[0] * factor, *output[1:])

    with ExitStack() as stack:
        for i, factor in factors.items():
            handle = layers[i].register_forward_hook(lambda _, __, out, by=factor: times(out, by))
            stack.callback(handle.remove)
        yield


def check_stretches(model: nn.Module) -> None:
    """Raises `UserError` where dividing what layers add does not stretch the stream; one of a kind is tried.

    It is where every layer, and the head, reads the stream through a norm that sees only its direction.
    """
    layers, calls = decoder_layers(model), call_arguments(model)
    reasons = [(f"layer {i}: ", _why_not(layers[i], calls[i])) for i in one_of_each_kind(model)]
    for where, reason in [*reasons, ("", _why_not_head(model))]:
        if reason:
            raise UserError(
                f"the residual stream of this {unwrap(model).config.model_type} cannot be stretched ({where}"
                f"{reason}): choose another recovery than magnitude-compensation"
            )


@torch.no_grad()
def fold(model: nn.Module, factors: Mapping[int, float], removed: Sequence[int]) -> list[int]:
    """Divides what each kept layer adds to the stream by the factors of all gaps before it; returns them."""
    layers, calls = decoder_layers(model), call_arguments(model)
    changed = []
    for i, layer in enumerate(layers):
        factor = 1.0
        for first, times in factors.items():
            factor *= times if first < i else 1.0
        if factor != 1.0 and i not in set(removed):
            divide(layer, calls[i], factor)
            changed.append(i)
    return changed


@torch.no_grad()
def divide(layer: nn.Module, call: Arguments, factor: float) -> None:
    """Divides what a layer adds to the stream: its last norms where there are some, else its last linears."""
    for parameter, offset in _outputs(layer, call):
        wide = parameter.to(torch.promote_types(parameter.dtype, torch.float32))
        parameter.copy_((wide + offset) / factor - offset)


def _outputs(layer: nn.Module, call: Arguments) -> list[tuple[nn.Parameter, float]]:
    """The parameters that a layer's contribution is proportional to, each with what is added to it first."""
    if is_mixture(layer):
        return [(parameter, 0.0) for parameter in _outputs_by_name(layer)]
    parts, found = layer_parts(layer, as_float32(call)), []
    for branch in (parts.attention, parts.mlp):
        norm = None if branch.after is None else known_norm(layer.get_submodule(branch.after))
        offset = 0.0 if norm is None else norm.offset
        for name, parameter in layer.get_submodule(branch.after or branch.writes).named_parameters():
            found.append((parameter, offset if name == "weight" else 0.0))
    return found


def _outputs_by_name(layer: nn.Module) -> Iterator[nn.Parameter]:
    """Of a mixture: the attention's, every expert's and the shared expert's output projections and biases."""
    named = dict(layer.named_parameters())
    endings = tuple(f".{ending}" for ending in (*ATTENTION_OUTPUTS, *DOWN_PROJECTIONS))
    for name in linear_weights(layer):
        path = name.removesuffix(".weight")
        if f".{path}".endswith(endings):
            yield named[name]
            for bias in (f"{path}.bias", f"{path}_bias"):
                if bias in named:
                    yield named[bias]


def _why_not(layer: nn.Module, call: Arguments) -> str | None:
    """Layer(α x) = α · (layer with what it adds divided by α)(x)?"""
    wide = copy.deepcopy(layer).float()
    hidden = layer_input(*call)
    push = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0)).to(hidden.device)
    call = _with_hidden(call, push)
    if _reads_length(wide, call):
        return "it reads the stream without a norm"
    whole = _output(wide, call, TRIED * push)
    divide(wide, call, TRIED)
    folded = TRIED * _output(wide, call, push)
    if not bool((whole - folded).norm() <= TOLERANCE * (whole - TRIED * push).norm()):
        return "it adds to the stream what no output projection of a known name makes"
    return None


def _reads_length(layer: nn.Module, call: Arguments) -> bool:
    """Whether a branch has no norm at its beginning; of a mixture only the trial can tell.

    A trial alone would not: a gated MLP with a norm behind it sees little of the length.
    """
    if is_mixture(layer):
        return False
    parts = layer_parts(layer, call)
    return parts.attention.before is None or parts.mlp.before is None


@torch.no_grad()
def _why_not_head(model: nn.Module) -> str | None:
    layers, tokens = decoder_layers(model), probe_tokens(model)
    found = []
    with skipped(model, range(len(layers))):
        for factor in (LARGE, TRIED * LARGE):
            with stretched(model, {0: factor}):
                found.append(decoder(model)(input_ids=tokens, use_cache=False)["last_hidden_state"].float())
    near = (found[0] - found[1]).norm() <= 10 * TOLERANCE * found[0].norm()
    return None if bool(near) else "the head reads more of the stream than its direction"


@torch.no_grad()
def _output(layer: nn.Module, call: Arguments, hidden: Tensor) -> Tensor:
    args, kwargs = _with_hidden(call, hidden)
    return hidden_state(layer(*args, **kwargs))


def _with_hidden(call: Arguments, hidden: Tensor) -> Arguments:
    """The call with other hidden states, in float32; copies, since some layers add to them in place."""
    args, kwargs = as_float32(call)
    hidden = hidden.float().clone()
    return ((hidden, *args[1:]), kwargs) if args else ((), {**kwargs, "hidden_states": hidden})


def _log_norm(hidden: Tensor, real: Tensor) -> float:
    return float(hidden[real.to(hidden.device)].float().norm(dim=-1).clamp_min(1e-30).log().double().sum())
