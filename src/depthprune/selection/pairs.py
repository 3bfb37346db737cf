"""Cuts of two neighbouring sublayers: a layer, or the MLP of one and the attention of the next."""

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field

from depthprune.errors import UserError
from depthprune.selection.base import Amount, Sizes
from depthprune.selection.plan import resolve_layers

Pair = tuple[int, int]
"""Two sublayers of the original model: layer i's attention is number 2i, its MLP 2i + 1."""


class Cuts(Amount):
    """An amount that may be taken between layers too."""

    granularity: Literal["layers", "sublayer-pairs"] = Field(
        "layers", exclude_if=lambda value: value == "layers"
    )
    """What goes at once: a layer, or any two neighbouring sublayers. The MLP of a layer and the attention of
    the next leave one layer, made of the other two."""

    @property
    def in_pairs(self) -> bool:
        """Whether cuts may lie between layers."""
        return self.granularity == "sublayer-pairs"

    def ordered_pairs(
        self, scores: Sequence[float], across: Sequence[float], gone: Collection[int]
    ) -> list[tuple[float, Pair]]:
        """The pairs that may go yet, each with its score, the lowest first; ties break toward the deeper.

        Args:
            scores, across: [L] of layers, and of a layer's MLP with the next one's attention.
            gone: the sublayers that went before.
        """
        staying = set(resolve_layers(self.protect, len(scores), "selection.protect"))
        left = [sublayer for sublayer in range(2 * len(scores)) if sublayer not in gone]
        found = []
        for place, pair in enumerate(pairwise(left)):
            layer = left[place - place % 2] // 2  # whose attention is there; the MLP may be another's
            if staying.isdisjoint(sublayer // 2 for sublayer in pair):
                found.append(((across if place % 2 else scores)[layer], pair))
        return sorted(found, key=lambda scored: (scored[0], -scored[1][0]))

    def next_pairs(
        self,
        scores: Sequence[float],
        across: Sequence[float],
        gone: Collection[int],
        sizes: Sizes,
        most: int | None = None,
    ) -> list[tuple[float, Pair]]:
        """The pairs that go now, at most `most`, the lowest first, no sublayer twice.

        Raises:
            UserError: as `how_many`, and where so many pairs do not fit beside each other.
        """
        removed, _ = stack(len(scores), gone)
        order = self.ordered_pairs(scores, across, gone)
        count = self.how_many([pair[0] for _, pair in order], sizes, removed)
        wanted = count if most is None else min(count, most)
        taken: list[tuple[float, Pair]] = []
        for score, pair in order:
            if len(taken) < wanted and not any(set(pair) & set(other) for _, other in taken):
                taken.append((score, pair))
        if len(taken) < wanted:
            raise UserError(
                f"{wanted} pairs of sublayers are to go at once and the {len(taken)} lowest leave no two "
                "others side by side: choose selection.method=iterative, or remove fewer"
            )
        return taken


def stack(depth: int, gone: Collection[int]) -> tuple[tuple[int, ...], dict[int, int]]:
    """Without these sublayers: the layers removed, and kept layer → removed one whose MLP it takes.

    They went in runs of even length, so that attentions and MLPs take turns.
    """
    attentions = [i for i in range(depth) if 2 * i not in gone]
    mlps = [i for i in range(depth) if 2 * i + 1 not in gone]
    removed = tuple(i for i in range(depth) if 2 * i in gone)
    return removed, {i: other for i, other in zip(attentions, mlps, strict=True) if i != other}


def gone_in(rounds: Sequence[dict[str, Any]]) -> list[int]:
    """The sublayers that went in these rounds of scores.json."""
    return [sublayer for round_ in rounds for pair in round_["pairs"] for sublayer in pair]


def spoken(pairs: Sequence[Sequence[int]]) -> str:
    """Pairs in words, by their layers in the original model: MLP 4 and attention 5; layer 2."""
    return "; ".join(_spoken(*pair) for pair in pairs)


def _spoken(one: int, other: int) -> str:
    if one + 1 == other and one % 2 == 0:
        return f"layer {one // 2}"
    return " and ".join(f"{'MLP' if part % 2 else 'attention'} {part // 2}" for part in (one, other))
