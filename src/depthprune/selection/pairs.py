"""Cuts of two neighbouring sublayers: a layer, or the MLP of one and the attention of the next."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field

from depthprune.errors import UserError
from depthprune.selection.base import ByScores, Sizes
from depthprune.selection.plan import Plan, resolve_layers

Pair = tuple[int, int]
"""Two sublayers of the original model: layer i's attention is number 2i, its MLP 2i + 1."""


class Cuts(ByScores):
    """An amount that may be taken between layers too."""

    granularity: Literal["layers", "sublayer-pairs", "sublayers"] = Field(
        "layers", exclude_if=lambda value: value == "layers"
    )
    """What goes at once: a layer, or any two neighbouring sublayers. The MLP of a layer and the attention of
    the next leave one layer, made of the other two. `sublayers`: an attention or an MLP alone, which stays in
    the checkpoint as zeros; amounts are then of the 2L sublayers."""

    @property
    def in_pairs(self) -> bool:
        """Whether cuts may lie between layers."""
        return self.granularity == "sublayer-pairs"

    @property
    def in_sublayers(self) -> bool:
        """Whether attentions and MLPs go one by one."""
        return self.granularity == "sublayers"

    def parts(self, num_layers: int) -> int:
        """The layers, or where they go one by one their attentions and MLPs."""
        return 2 * num_layers if self.in_sublayers else num_layers

    def rehearse(self, sizes: Sizes) -> Plan:
        """As of layers; sublayers stay in the checkpoint, so that the least that goes is one layer."""
        if not self.in_sublayers:
            return super().rehearse(sizes)
        self.next_sublayers([0.0] * (2 * sizes.num_layers), (), sizes)
        return Plan(sizes.num_layers, (sizes.num_layers - 1,))

    def next_sublayers(
        self, scores: Sequence[float], gone: Sequence[int], sizes: Sizes, most: int | None = None
    ) -> list[int]:
        """The sublayers that go now, at most `most`, the lowest first; ties break toward the deeper.

        Args:
            scores: [2L].
            gone: the sublayers that went before.
        """
        staying = set(resolve_layers(self.protect, sizes.num_layers, "selection.protect"))
        left = [i for i in range(len(scores)) if i not in gone and i // 2 not in staying]
        order = sorted(left, key=lambda i: (scores[i], -i))
        halves = Sizes(sizes.total, [size for size in sizes.per_layer for _ in range(2)])
        count = self.how_many(order, halves, gone)
        return order[: count if most is None else min(count, most)]

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
    """The sublayers that went in these rounds of scores.json, alone or in pairs."""
    pairs = [part for round_ in rounds for pair in round_.get("pairs", ()) for part in pair]
    return pairs + [part for round_ in rounds for part in round_.get("sublayers", ())]


def silent_plan(depth: int, gone: Collection[int], metric: str, selection: str) -> Plan:
    """Layers of which both sublayers are gone are removed; of others the one that is gone is silenced."""
    removed = tuple(i for i in range(depth) if {2 * i, 2 * i + 1} <= set(gone))
    silenced: dict[int, tuple[str, ...]] = {}
    for part in sorted(gone):
        if part // 2 not in removed:
            silenced[part // 2] = ("mlp",) if part % 2 else ("attention",)
    return Plan(depth, removed, metric, selection, silenced=silenced)


def spoken(pairs: Sequence[Sequence[int]]) -> str:
    """Pairs in words, by their layers in the original model: MLP 4 and attention 5; layer 2."""
    return "; ".join(_spoken(*pair) for pair in pairs)


def named(sublayer: int) -> str:
    """MLP 4, attention 5."""
    return f"{'MLP' if sublayer % 2 else 'attention'} {sublayer // 2}"


def _spoken(one: int, other: int) -> str:
    if one + 1 == other and one % 2 == 0:
        return f"layer {one // 2}"
    return f"{named(one)} and {named(other)}"


def spoken_silence(silenced: Mapping[int, Sequence[str]]) -> str:
    """Attention 3, 7; MLP 2."""
    sides = {"attention": "Attention", "mlp": "MLP"}
    layers = {side: [str(i) for i, names in sorted(silenced.items()) if side in names] for side in sides}
    return "; ".join(f"{sides[side]} {', '.join(found)}" for side, found in layers.items() if found)
