"""The ways to make one layer of a pair: cut the other, refit one's MLP, or flatten both into one."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from depthprune.model.parts import Branch
from depthprune.recovery.flatten.attention import Attention
from depthprune.recovery.flatten.first_pass import FirstPass, first_pass
from depthprune.recovery.flatten.layout import rows
from depthprune.recovery.flatten.merge import Units, effective_writes, neutral_norm, put_reads, put_writes
from depthprune.recovery.flatten.norms import norm_after
from depthprune.recovery.flatten.pair import Heads, Pair, written
from depthprune.recovery.flatten.solve import Written, solutions
from depthprune.recovery.flatten.stream import Watched, in_float32
from depthprune.recovery.through_norm import TokenBatches

# The energy of a channel that no sample woke, as a share of the mean.
ASLEEP = 1e-6

Tokens = Iterable[tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Made:
    """One layer in place of two, in the model's dtype.

    Attributes:
        how: `cut`, `refit` or `flatten`.
        error: the mean over held-out tokens of ‖ĥ_b − h_b‖²/‖h_b‖².
        rho: the strengths of the ridges of attention and MLP, where they were fitted.
        groups, channels: how many come from either layer, where both were asked.
    """

    layer: nn.Module
    how: str
    error: float
    heads: Heads
    rho: tuple[float | None, float | None] = (None, None)
    groups: tuple[int, int] | None = None
    channels: tuple[int, int] | None = None


class Making:
    """Makes layers of a pair; what several of them need is computed once."""

    def __init__(self, pair: Pair, rhos: Sequence[float]) -> None:
        self.pair, self.rhos = pair, rhos
        self.attention, self.mlp = pair.parts.attention, pair.parts.mlp

    def cut(self, place: int) -> Made:
        """One of the two as it is, 0 or 1."""
        layer = copy.deepcopy(self.pair.sources[place])
        return Made(layer, "cut", self._error(layer, _side(place)), _side(place))

    def refit(self, place: int, rhos: Sequence[float] | None = None) -> Made:
        """One of the two, 0 or 1, with what its MLP writes fitted to what both did."""
        heads, source = _side(place), self.pair.sources[place]
        start = rows(source.get_submodule(self.mlp.writes)).mT.double()
        fits = self._solved(
            self.mlp, lambda: self._mlp_tokens(source, heads), start, source, rhos or self.rhos
        )
        found = []
        for fit in fits:
            layer = copy.deepcopy(source)
            put_writes(layer, self.mlp, fit)
            found.append(Made(layer, "refit", self._error(layer, heads), heads, (None, fit.rho)))
        return min(found, key=lambda made: made.error)

    def flatten(self, heads: Heads, rhos: tuple[Sequence[float], Sequence[float]] | None = None) -> Made:
        """Both in one: attention first, then the MLP on the stream behind it."""
        for_attention, for_mlp = rhos or (self.rhos, self.rhos)
        target = copy.deepcopy(self.pair.sources[heads == "second"])
        attention = Attention(self.pair, self._first_pass, heads, for_attention)
        attention.put(target)
        put_reads(target, self.pair.sources, self.mlp, self.pair.channels, self._channels)
        neutral_norm(target, self.mlp)
        found = []
        for layer, rho in self._with_mlp(target, heads, for_mlp):
            error, channels = self._error(layer, heads), self._channels.counts
            strengths, groups = (attention.fit.rho, rho), attention.groups.counts
            found.append(Made(layer, "flatten", error, heads, strengths, groups, channels))
        return min(found, key=lambda made: made.error)

    def _error(self, layer: nn.Module, heads: Heads) -> float:
        return self.pair.error(layer, heads, self.pair.held_out)

    def _solved(
        self, branch: Branch, tokens: TokenBatches, start: Tensor, like: nn.Module, rhos: Sequence[float]
    ) -> list[Written]:
        """The fits of what a branch of `like` writes, one for each ρ."""
        return solutions(tokens, start, norm_after(like, branch), self.pair.has_bias(branch.writes), rhos)

    @cached_property
    def _first_pass(self) -> FirstPass:
        return first_pass(self.pair)

    def _with_mlp(
        self, target: nn.Module, heads: Heads, rhos: Sequence[float]
    ) -> Iterator[tuple[nn.Module, float]]:
        """The target with what its MLP writes fitted, its attention once more where both read the same."""
        like = self.pair.sources[heads == "second"]
        start = self._mlp_start(like)[self._chosen]
        if not self.pair.parts.parallel:
            for fit in self._solved(self.mlp, lambda: self._mlp_tokens(target, heads), start, like, rhos):
                layer = copy.deepcopy(target)
                put_writes(layer, self.mlp, fit)
                yield layer, fit.rho
            return
        own = rows(target.get_submodule(self.attention.writes)).mT.double()
        both = torch.cat([own, start])
        for fit in self._solved(self.attention, lambda: self._joint_tokens(target, heads), both, like, rhos):
            layer = copy.deepcopy(target)
            zero = None if fit.intercept is None else torch.zeros_like(fit.intercept)
            put_writes(layer, self.attention, Written(fit.rho, fit.weight[: len(own)], fit.intercept))
            put_writes(layer, self.mlp, Written(fit.rho, fit.weight[len(own) :], zero))
            yield layer, fit.rho

    def _mlp_start(self, like: nn.Module) -> Tensor:
        return effective_writes(self.pair.sources, self.mlp, like, self._first_pass.lengths[1])

    @cached_property
    def _chosen(self) -> Tensor:
        """The channels that stay, of 0 … 2F − 1, ascending: most of Σ w·z²·‖column of D‖²."""
        energy = self._first_pass.channels
        # One that these samples never woke is worth what it writes, a little.
        energy = energy + ASLEEP * energy.mean()
        strength = energy * self._mlp_start(self.pair.sources[0]).square().sum(dim=1)
        return strength.topk(len(self.pair.channels)).indices.sort().values

    @property
    def _channels(self) -> Units:
        return Units.of_both(self._chosen.cpu(), len(self.pair.channels))

    def _mlp_tokens(self, layer: nn.Module, heads: Heads) -> Tokens:
        """A layer's channels on the input of the pair, and what is missing behind its attention."""
        given, mlp = written(self.attention), self.mlp.writes
        watched = Watched(in_float32(layer), [given, mlp])
        for state in self.pair.fit:
            _, entered, left = watched(state.calls[heads == "second"], state.before)
            missing = (state.after - state.before) / self.pair.multiplier - left[given]
            yield entered[mlp][state.real], missing[state.real], state.weights

    def _joint_tokens(self, layer: nn.Module, heads: Heads) -> Tokens:
        """Where attention and MLP read the same: what both write is fitted together."""
        paths = [self.attention.writes, self.mlp.writes]
        watched = Watched(in_float32(layer), paths)
        for state in self.pair.fit:
            _, entered, _ = watched(state.calls[heads == "second"], state.before)
            features = torch.cat([entered[path] for path in paths], dim=-1)
            missing = (state.after - state.before) / self.pair.multiplier
            yield features[state.real], missing[state.real], state.weights


def _side(place: int) -> Heads:
    return "second" if place else "first"
