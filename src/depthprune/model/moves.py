"""What the tensors of a checkpoint are called once layers are gone."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from depthprune.errors import UserError
from depthprune.model.shards import LAYER_LISTS, Shard

if TYPE_CHECKING:
    from depthprune.model.sublayers import MlpFrom, Sides

# What published checkpoints call a module that transformers calls otherwise.
STORED_AS = {"block_sparse_moe": "mlp"}


@dataclass(frozen=True)
class Moves:
    """Which layers stay, and whose MLPs they take.

    Attributes:
        prefix: what stands before a layer's number, e.g. "model.layers."
        kept: their original indices, ascending.
        sides: of each original layer; empty where every layer keeps its MLP.
    """

    prefix: str
    kept: tuple[int, ...]
    mlp_from: "MlpFrom"
    sides: "Sequence[Sides]"

    def renamed(self, name: str) -> str | None:
        """A tensor's name in the pruned checkpoint; None if it goes."""
        if not name.startswith(self.prefix):
            return name
        number, dot, rest = name[len(self.prefix) :].partition(".")
        owner = self._owner(int(number), rest)
        if owner not in self.kept:
            return None  # a removed layer, or one behind the last, for speculative decoding
        return f"{self.prefix}{self.kept.index(owner)}{dot}{rest}"

    def _owner(self, layer: int, rest: str) -> int | None:
        """The kept layer that a layer's tensor belongs to; None if it goes."""
        if not self.mlp_from or not (layer in self.mlp_from or layer in self.mlp_from.values()):
            return layer
        module = rest.partition(".")[0]
        module = STORED_AS.get(module, module)
        if module in self.sides[layer].mlp:
            takers = [kept for kept, other in self.mlp_from.items() if other == layer]
            return takers[0] if takers else None
        if module in self.sides[layer].attention:
            return layer
        raise UserError(
            f"{self.prefix}{layer}.{rest} belongs neither to the attention nor to the MLP as transformers "
            "names them: remove whole layers, or load the model to prune it"
        )


def stored_prefix(shards: Sequence[Shard], path: str, depth: int, folder: Path) -> str:
    """What stands before the layer's number in the names on disk, e.g. "model.layers."

    Checkpoints may name their layers otherwise than the model in memory does (EXAONE's "transformer.h." for
    "model.layers."), and other towers may have layers too: the prefix counts up to `depth`, and ends like the
    path in memory if one does.
    """
    fitting = _stacks(shards, depth, path.rpartition(".")[2:]) or _stacks(shards, depth, LAYER_LISTS)
    exact = [prefix for prefix in fitting if prefix == f"{path}."]
    language = [prefix for prefix in fitting if not re.search("vision|visual|audio|encoder", prefix)]
    for candidates in (exact, fitting, language):
        if len(candidates) == 1:
            return candidates[0]
    raise UserError(
        f"{folder}: its files hold {len(fitting)} stacks of {depth} layers: cannot tell which to prune"
    )


def _stacks(shards: Sequence[Shard], depth: int, names: Sequence[str]) -> list[str]:
    """What stands before the numbers of each list with one of these names that counts up to `depth`."""
    pattern = re.compile(rf"((?:.*?\.)?(?:{'|'.join(map(re.escape, names))})\.)(\d+)\.")
    numbers: dict[str, set[int]] = {}
    for shard in shards:
        for name in shard.tensors:
            if found := pattern.match(name):
                numbers.setdefault(found[1], set()).add(int(found[2]))
    return [prefix for prefix, counted in numbers.items() if counted >= set(range(depth))]
