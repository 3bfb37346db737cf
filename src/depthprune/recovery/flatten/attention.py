"""One attention out of two: which groups of heads stay, and what they write."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.recovery.flatten.first_pass import FirstPass, attention_tokens
from depthprune.recovery.flatten.fit import ridge, without_worst_groups
from depthprune.recovery.flatten.merge import (
    Units,
    effective_writes,
    put_reads,
    put_writes,
    settle_norm,
    shared_norm,
    writes_in_stream,
)
from depthprune.recovery.flatten.pair import Heads, Pair
from depthprune.recovery.flatten.solve import Written, missed, solved
from depthprune.recovery.through_norm import TokenBatches, held_if_small


class Attention:
    """The attention of the merged layer of a pair, with heads from both layers or from one of them.

    Attributes:
        groups: those that stay.
        fit: what they write.
    """

    def __init__(
        self, pair: Pair, found: FirstPass, heads: Heads, rhos: Sequence[float], refine: bool
    ) -> None:
        """Of several strengths of the ridge, the one that misses least on the held-out samples."""
        self.pair, self.found, self.heads = pair, found, heads
        self.branch, self.like = pair.parts.attention, pair.sources[heads == "second"]
        self.start = effective_writes(pair.sources, self.branch, self.like, found.lengths[0])
        if self.branch.after is None:
            fits = list(self._fits(rhos))
            self.groups, self.fit = min(fits, key=self._missed) if len(rhos) > 1 else fits[0]
        else:
            self.groups, self.fit = self._fit_through_norm(rhos, refine)

    def put(self, target: nn.Module) -> None:
        """Gives a copy of the layer with the heads its new attention."""
        pair = self.pair
        shared = pair.parts.parallel and self.branch.before == pair.parts.mlp.before
        if self.heads == "both" or shared:
            if pair.groups is None:
                raise UserError("attention and MLP share a norm, and its attention does not fall into groups")
            put_reads(target, pair.sources, self.branch, pair.groups, self.groups)
            settle_norm(target, self.branch)
        put_writes(target, self.branch, self.fit)

    def _missed(self, found: tuple[Units, Written]) -> float:
        groups, fit = found
        columns = self._columns(groups)
        return missed(lambda: ((z[:, columns], t, w) for z, t, w in self._held_out()), fit, None)

    @cached_property
    def _held_out(self) -> TokenBatches:
        every = torch.arange(len(self.start), device=self.start.device)
        return held_if_small(lambda: attention_tokens(self.pair, self.pair.held_out, every))

    def _fits(self, rhos: Sequence[float]) -> Iterator[tuple[Units, Written]]:
        grams = self.found.grams
        for rho in rhos:
            groups = self._groups_left(rho * grams.scale)
            fit = ridge(grams, self.start, self._columns(groups), rho * grams.scale)
            yield groups, Written(rho, fit.weight, grams.intercept(fit))

    def _fit_through_norm(self, rhos: Sequence[float], refine: bool) -> tuple[Units, Written]:
        groups = self._strongest_groups()
        columns = self._columns(groups)
        after = shared_norm(self.pair.sources, self.branch, self.like, self.found.lengths[0])
        return groups, solved(
            lambda states: attention_tokens(self.pair, states, columns),
            self.pair,
            self.start[columns],
            after,
            False,
            rhos,
            refine,
        )

    def _groups_left(self, penalty: float) -> Units:
        """By backward elimination, where both layers' are to be had."""
        if self.heads != "both":
            return self._all_of_one()
        keep = len(self._columns_of_groups) // 2
        left, _ = without_worst_groups(self.found.grams, self.start, self._columns_of_groups, keep, penalty)
        return Units.of_both(torch.tensor(left), keep)

    def _strongest_groups(self) -> Units:
        """Those that write most, where both layers' are to be had: a norm stands before any sum of them."""
        if self.heads != "both":
            return self._all_of_one()
        each = self.found.heads * torch.cat(writes_in_stream(self.pair.sources, self.branch)).square().sum(
            dim=1
        )
        strength = torch.stack([each[columns].sum() for columns in self._columns_of_groups])
        keep = len(strength) // 2
        return Units.of_both(strength.topk(keep).indices.sort().values.cpu(), keep)

    def _all_of_one(self) -> Units:
        count = self.pair.kv_heads
        return Units(torch.full((count,), int(self.heads == "second")), torch.arange(count))

    @property
    def _columns_of_groups(self) -> list[Tensor]:
        """Of each group of the first layer, then of the second: its columns of both layers' heads."""
        assert self.pair.groups is not None
        columns = self.pair.groups.columns.to(self.found.heads.device)
        return [*columns, *(columns + len(self.start) // 2)]

    def _columns(self, groups: Units) -> Tensor:
        """The columns of these groups, of both layers' heads."""
        width = len(self.start) // 2
        if self.pair.groups is None:
            first = width * int(groups.layer[0])
            return torch.arange(first, first + width, device=self.start.device)
        numbers = groups.layer * len(self.pair.groups) + groups.unit
        return torch.cat([self._columns_of_groups[i] for i in numbers.tolist()])
