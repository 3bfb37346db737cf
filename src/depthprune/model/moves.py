"""What the tensors of a checkpoint are called once layers are gone."""

from collections.abc import Sequence
from dataclasses import dataclass

from depthprune.errors import UserError
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
    mlp_from: MlpFrom
    sides: Sequence[Sides]

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
