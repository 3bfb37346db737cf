"""Per-sample gradient norms of every weight in the decoder layers, from one batched backward pass.

The weights stay frozen: hooks keep what enters a module and see what comes back to its output, and the norms
follow from the two (see `per_sample_rules`). Nothing of a weight's size is allocated, but by `replay`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from depthprune.importance.per_sample_rules import Call, input_gram, replay, rule_of
from depthprune.model.anatomy import decoder_layers, unwrap
from depthprune.model.freeze import all_frozen


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model in eval mode with all weights frozen and gradients on; afterwards it is as it was."""
    embeddings = unwrap(model).get_input_embeddings()
    handle = embeddings.register_forward_hook(lambda _, args, output: _with_gradient(output))
    try:
        with all_frozen(model), torch.enable_grad():
            yield
    finally:
        handle.remove()


class PerSampleNorms:
    """Sums ‖∂loss_s/∂θ‖₂ over the samples s of a batch and the parameters θ of each decoder layer.

    With `parts`, lists of modules inside the layers, the sums are those of each part's parameters. With
    `layers` only these of the model's are looked at.

    Use within `frozen(model)`: `begin(B, T)`, a forward and a backward pass of Σ_s loss_s, then `finish()`.

    Attributes:
        replayed: the classes of modules that needed a backward pass per sample.
        mixed: a layer's rows could not be told apart by sample: the batch has to be taken a sample at a time.
    """

    def __init__(
        self,
        model: nn.Module,
        gradient_checkpointing: bool = False,
        parts: Sequence[Sequence[nn.Module]] | None = None,
        layers: Sequence[nn.Module] | None = None,
    ) -> None:
        self.layers = list(decoder_layers(model) if layers is None else layers)
        self.parts = [[layer] for layer in self.layers] if parts is None else parts
        self.gradient_checkpointing = gradient_checkpointing
        self.replayed: set[str] = set()
        self._parts_of: dict[nn.Parameter, tuple[int, ...]] = {}
        for i, part in enumerate(self.parts):
            for weight in dict.fromkeys(weight for module in part for weight in module.parameters()):
                self._parts_of[weight] = (*self._parts_of.get(weight, ()), i)
        self._parameters: dict[nn.Module, dict[str, nn.Parameter]] = {}
        for layer in self.layers:
            for module in layer.modules():
                weights = {n: p for n, p in module.named_parameters() if p.is_floating_point()}
                if weights:
                    self._parameters[module] = weights
        self._replaying = False
        self.begin(1, 1)

    def begin(self, samples: int, tokens: int) -> None:
        """Forgets the last batch; the next one has `samples` rows of `tokens` tokens."""
        self._samples, self._tokens = samples, tokens
        self.mixed = False
        self._sums: list[Tensor | float] = [0.0] * len(self.parts)
        self._calls: dict[nn.Module, list[Call]] = {}
        self._calls_without_grad: Counter[nn.Module] = Counter()
        self._answered_by: dict[nn.Parameter, nn.Module] = {}

    @contextmanager
    def attached(self) -> Iterator["PerSampleNorms"]:
        """Hooks on every module in the layers that holds parameters."""
        with ExitStack() as stack:
            for module in self._parameters:
                if self.gradient_checkpointing and module in self.layers:
                    stack.enter_context(self._recomputed(module))
                else:
                    hook = module.register_forward_hook(self._observe, with_kwargs=True)
                    stack.callback(hook.remove)
            yield self

    @contextmanager
    def _recomputed(self, layer: nn.Module) -> Iterator[None]:
        """The layer's forward runs without gradients, and again in the backward pass."""
        forward, patched_before = layer.forward, "forward" in vars(layer)

        def observed(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            seen = self._observe(layer, args, kwargs, output)
            return output if seen is None else seen

        def recomputed(*args: Any, **kwargs: Any) -> Any:
            return forward(*args, **kwargs) if self._replaying else _checkpoint(observed, args, kwargs)

        layer.forward = recomputed
        try:
            yield
        finally:
            if patched_before:
                layer.forward = forward
            else:
                del layer.forward

    def _observe(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
        """Forward hook: keeps the call and waits for the gradient of its output."""
        if self._replaying:
            return None
        if not torch.is_grad_enabled():
            self._calls_without_grad[module] += 1
            return None
        parameters = self._unanswered(module)
        if not parameters:
            return None
        call = Call(args, kwargs, parameters, self._samples, self._tokens)
        places, output = _hookable(output)
        tensors = list(places.values())
        call.rule = rule_of(module, call, tensors)
        if call.rule is None:  # the module around it answers for its parameters
            self.mixed |= module in self.layers
            return None
        self._answered_by.update(dict.fromkeys(call.parameters.values(), module))
        self._calls.setdefault(module, []).append(call)
        _on_gradients(tensors, partial(self._arrived, module, call, list(places)))
        return output

    def _unanswered(self, module: nn.Module) -> dict[str, nn.Parameter]:
        """The module's own parameters, and those of modules inside it that are used without being called."""
        return {
            name: weight
            for name, weight in self._parameters[module].items()
            if self._answered_by.get(weight, module) is module
        }

    @torch.no_grad()
    def _arrived(
        self, module: nn.Module, call: Call, places: list[int], gradients: Sequence[Tensor | None]
    ) -> None:
        """Backward hook: the call has its gradients; the module's norms follow once all its calls have."""
        call.gradients = {place: g for place, g in zip(places, gradients, strict=True) if g is not None}
        if max(len(self._calls[module]), self._calls_without_grad[module]) == 1:
            self._close(module)

    def _close(self, module: nn.Module) -> None:
        """Adds the module's norms to its parts' sums and frees what its calls kept."""
        calls = [call for call in self._calls.pop(module) if call.gradients]
        if not calls:
            return
        if not all(call.unchanged() for call in calls):
            raise RuntimeError(f"{type(module).__name__} was called with a tensor that was changed in place")
        rule = calls[0].rule
        assert rule is not None
        self._replaying = True
        squares = rule(module, calls)
        self._replaying = False
        if rule is replay and self._samples > 1 and any(square.any() for square in squares.values()):
            self.replayed.add(type(module).__name__)
        by_parts: dict[tuple[int, ...], list[Tensor]] = {}
        for name, square in squares.items():
            by_parts.setdefault(self._parts_of[calls[0].parameters[name]], []).append(square)
        for parts, found in by_parts.items():
            norms = torch.stack(found).sqrt().sum()
            for part in parts:
                self._sums[part] = self._sums[part] + norms
        for call in calls:
            call.release()

    @torch.no_grad()
    def finish(self) -> Tensor:
        """The sums of the batch, float64 on the CPU; a part that no gradient reached has 0."""
        for module in list(self._calls):
            self._close(module)
        input_gram.cache_clear()
        return torch.tensor([float(total) for total in self._sums], dtype=torch.float64)

    def kept(self) -> Iterator[Tensor]:
        """The tensors that the open calls hold."""
        for calls in self._calls.values():
            for call in calls:
                yield from call.tensors()


def _checkpoint(function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """`function(*args, **kwargs)`, run again in the backward pass, which is when its hooks see gradients.

    All tensors go through the checkpoint as arguments and results: one that came in by a closure would bring
    its own graph along.
    """
    leaves, spec = tree_flatten((args, kwargs))
    form: Any = None

    def run(*leaves: Any) -> tuple:
        nonlocal form
        args, kwargs = tree_unflatten(leaves, spec)
        outputs, form = tree_flatten(function(*args, **kwargs))
        return tuple(outputs)

    outputs = checkpoint(run, *leaves, use_reentrant=True, preserve_rng_state=False)
    return tree_unflatten(outputs, form)


def _hookable(output: Any) -> tuple[dict[int, Tensor], Any]:
    """The output's tensors that get a gradient, by their place among its leaves, and the output to pass on.

    Where there are several, views of them: one of them may be computed from another, and its own gradient
    would then hold the other's.
    """
    leaves, spec = tree_flatten(output)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    for i in places:
        leaves[i] = _with_gradient(leaves[i])
        if len(places) > 1:
            leaves[i] = leaves[i].view_as(leaves[i])
    return {i: leaves[i] for i in places}, tree_unflatten(leaves, spec)


def _with_gradient(tensor: Tensor) -> Tensor:
    """The tensor, part of a graph: an embedding's output is not while weights are frozen.

    Then a copy, since some families scale their embeddings in place and autograd refuses that on a leaf.
    """
    return tensor if tensor.requires_grad else tensor.requires_grad_().clone()


def _on_gradients(tensors: list[Tensor], arrived: Callable[[Sequence[Tensor | None]], None]) -> None:
    if len(tensors) == 1:
        tensors[0].register_hook(lambda gradient: arrived([gradient]))
    elif tensors:
        register_multi_grad_hook(tensors, arrived)
