"""What a section does, counted as it runs: floating-point operations, bytes moved, the peak of memory.

Nothing is assumed of the model's family: the operations themselves are watched. The quotient of two counts is
what a ratio of times would be if nothing else took time.
"""

import math
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, shape_wrapper

aten = torch.ops.aten


def attention_flops(query: list[int], keys: list[int], values: list[int], *_: Any, **__: Any) -> int:
    """Of scores and weighted sum, [B, H, T, d] each; masked scores count, as in torch's own formulas."""
    batch, heads, tokens, width = query
    return 2 * batch * heads * tokens * keys[2] * (width + values[3])


def attention_backward_flops(
    _: list[int], query: list[int], keys: list[int], values: list[int], *__: Any, **___: Any
) -> int:
    """The scores again, and the gradients of scores, values, queries and keys."""
    batch, heads, tokens, width = query
    return 2 * batch * heads * tokens * keys[2] * (3 * width + 2 * values[3])


def grouped_flops(first: list[int], second: list[int], *_: Any, **__: Any) -> int:
    """Of stacked experts: [T, K] by [E, K, N], or of two tensors of which any has the dimension E."""
    rows = first[-2:] if len(second) == 2 else first
    return 2 * math.prod(rows) * second[-1]


# torch's own formulas, and what they leave out: the attention kernel of a CPU, and stacked experts.
FORMULAS = {
    aten._scaled_dot_product_flash_attention_for_cpu: shape_wrapper(attention_flops),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: shape_wrapper(attention_backward_flops),
    aten._grouped_mm: shape_wrapper(grouped_flops),
    **flop_registry,
}
# These read of their first tensor no more than they return.
GATHERS = (aten.embedding, aten.index_select, aten.gather, aten.index)
# These write nothing.
ALLOCATIONS = (aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.new_empty_strided)


@dataclass(frozen=True)
class Counted:
    """Of one section: operations, bytes read and written, and the most bytes there were, weights included."""

    flops: int
    bytes: int
    peak_bytes: int


class Counter:
    """Keeps what each section counts.

    On CUDA the peak is that of torch's allocator, elsewhere the sum of all tensors. What lies in memory when
    the counter is made is not counted, for another model may be there; `held` bytes of it are.
    """

    def __init__(self, held: int) -> None:
        self.found: dict[str, Counted] = {}
        self.held = held
        self.tensors = _Tensors()
        self.others = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        tensors = self.tensors
        tensors.flops, tensors.moved, tensors.peak = 0, 0, tensors.live
        with tensors:
            yield
        grown = tensors.peak
        if torch.cuda.is_available():
            grown = torch.cuda.max_memory_allocated() - self.others
        self.found[name] = Counted(tensors.flops, tensors.moved, self.held + grown)


class _Tensors(TorchDispatchMode):
    """Watches all operations: `flops`, `moved` bytes, the `live` bytes of what was made, and their `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.moved = self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in inputs:
            self._note(tensor, 0)  # made before, or else known already
        output = func(*args, **(kwargs or {}))
        if (formula := FORMULAS.get(func.overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=output)
        outputs = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        self.moved += moved_bytes(func, inputs, outputs)
        for tensor in outputs:
            self._note(tensor, tensor.untyped_storage().nbytes())
        return output

    def _note(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def moved_bytes(func: Any, inputs: list[Tensor], outputs: list[Tensor]) -> int:
    """Bytes that an operation reads and writes; none where it only looks at a tensor in another way."""
    packet = func.overloadpacket
    places = {tensor.untyped_storage()._cdata for tensor in inputs}
    looks = any(tensor.untyped_storage()._cdata in places for tensor in outputs)
    if packet in ALLOCATIONS or (looks and not func._schema.is_mutable):
        return 0
    written = sum(map(_size, outputs))
    if packet in GATHERS:
        return 2 * written + sum(map(_size, inputs[1:]))
    return written + sum(map(_size, inputs))


def _size(tensor: Tensor) -> int:
    """Of an expanded tensor no more than there is."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the tensors' storages, each once."""
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in tensors}
    return sum(storage.nbytes() for storage in storages.values())
