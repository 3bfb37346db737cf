"""The parts of a decoder layer, found from its data flow: what reads and writes, which norms lie between."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from depthprune.errors import UserError
from depthprune.model.anatomy import down_projection, is_mixture

# The attention's output projection, by the end of its name.
ATTENTION_OUTPUTS = (
    "self_attn.o_proj",
    "self_attn.out_proj",
    "self_attn.dense",
    "attn.c_proj",
    "attention.dense",
    "self_attention.dense",
)


@dataclass(frozen=True)
class Branch:
    """One branch of a layer, from the residual stream and back: x → x + m·after(writes(… reads(before(x)))).

    Attributes:
        before: the norm whose output the linears `reads` are given, None where they read the stream itself.
        reads: the linears at its beginning.
        writes: the linear at its end.
        after: the norm between `writes` and the residual stream, None where there is none.
    """

    before: str | None
    reads: tuple[str, ...]
    writes: str
    after: str | None


@dataclass(frozen=True)
class LayerParts:
    """A layer's two branches, by the paths of their modules in the layer.

    Attributes:
        parallel: whether the MLP reads what the attention reads, and not the stream after it.
    """

    attention: Branch
    mlp: Branch
    parallel: bool


def layer_parts(layer: nn.Module, arguments: tuple[tuple, Mapping[str, Any]]) -> LayerParts:
    """The parts of a layer, from one call of a copy of it with `arguments` and random weights.

    Raises `UserError` for a layer that is not made of an attention and a dense MLP.
    """
    writes = _attention_output(layer), _mlp_output(layer)
    flow = _Flow(layer, arguments)
    attention = flow.branch(writes[0], lambda path: path.startswith(_owner(writes[0])))
    mlp = flow.branch(writes[1], lambda path: not path.startswith(_owner(writes[0])))
    read = flow.inputs[mlp.before or mlp.reads[0]]
    return LayerParts(attention, mlp, parallel=_same(read, flow.hidden))


def norm_after(layer: nn.Module, arguments: tuple[tuple, Mapping[str, Any]], writes: str) -> str | None:
    """The norm that the output of the linear `writes` goes through, found as in `layer_parts`."""
    return _Flow(layer, arguments).after(writes)


def _owner(path: str) -> str:
    """The module that a projection belongs to, with its dot."""
    return path.rpartition(".")[0] + "."


def _attention_output(layer: nn.Module) -> str:
    for path, module in layer.named_modules():
        if isinstance(module, (nn.Linear, Conv1D)) and f".{path}".endswith(
            tuple(f".{ending}" for ending in ATTENTION_OUTPUTS)
        ):
            return path
    raise UserError("it has no attention with an output projection of a known name")


def _mlp_output(layer: nn.Module) -> str:
    down = down_projection(layer)
    if down is None:
        raise UserError("it has no MLP with a down projection of a known name")
    if is_mixture(layer):
        raise UserError("its MLP is a mixture of experts")
    return down.name.removesuffix(".weight")


class _Flow:
    """What entered and left each norm and linear of a layer in one call."""

    def __init__(self, layer: nn.Module, arguments: tuple[tuple, Mapping[str, Any]]) -> None:
        wide = _with_random_weights(layer)
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self.norms, self.linears = [], []
        for path, module in wide.named_modules():
            if isinstance(module, (nn.Linear, Conv1D)):
                self.linears.append(path)
            elif "." not in path and "norm" in type(module).__name__.lower():
                self.norms.append(path)
            else:
                continue
            module.register_forward_hook(lambda _, args, out, path=path: self._keep(path, args[0], out))
        args, kwargs = arguments
        self.hidden = (args[0] if args else kwargs["hidden_states"]).detach().clone()
        with torch.no_grad():
            wide(*args, **kwargs)

    def _keep(self, path: str, entered: Tensor, left: Tensor) -> None:
        # Copies, since some families go on to add in place.
        self.inputs[path], self.outputs[path] = entered.detach().clone(), left.detach().clone()

    def after(self, writes: str) -> str | None:
        """The norm that reads what the linear `writes` gives."""
        return next((path for path in self.norms if self._reads(path, writes)), None)

    def branch(self, writes: str, belongs: Any) -> Branch:
        """The branch that ends with the linear `writes`, of the linears that `belongs` says are its own."""
        own = [path for path in self.linears if belongs(path) and path != writes and path in self.inputs]
        after = self.after(writes)
        for before in self.norms:
            reads = tuple(path for path in own if self._reads(path, before))
            if before != after and reads:
                return Branch(before, reads, writes, after)
        width = self.hidden.shape[-1]
        reads = tuple(path for path in own if self.inputs[path].shape[-1] == width)
        if not reads:
            raise UserError(f"nothing in it reads the residual stream for {writes}")
        return Branch(None, reads, writes, after)

    def _reads(self, path: str, source: str) -> bool:
        known = path in self.inputs and source in self.outputs
        return known and _same(self.inputs[path], self.outputs[source])


def _with_random_weights(layer: nn.Module) -> nn.Module:
    """A float32 copy in which no two modules compute the same by chance, as where a layer does nothing."""
    wide = copy.deepcopy(layer).float()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in wide.parameters():
            noise = torch.rand(parameter.shape, generator=generator)
            parameter.copy_(noise / max(1, parameter.shape[-1] if parameter.ndim > 1 else 1) + 0.01)
    return wide


def _same(one: Tensor, other: Tensor) -> bool:
    return one.numel() == other.numel() and torch.equal(one.flatten(), other.flatten())
