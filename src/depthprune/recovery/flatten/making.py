"""The ways to make one layer of a pair: cut the other, map or refit one's MLP, or flatten both into one."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.model.parts import Branch
from depthprune.recovery.flatten.attention import Attention
from depthprune.recovery.flatten.first_pass import FirstPass, first_pass
from depthprune.recovery.flatten.layout import rows
from depthprune.recovery.flatten.merge import (
    Units,
    effective_writes,
    put_reads,
    put_writes,
    settle_norm,
    shared_norm,
    writes_in_stream,
)
from depthprune.recovery.flatten.norms import norm_of
from depthprune.recovery.flatten.pair import Heads, Pair, written
from depthprune.recovery.flatten.solve import Tokens, Written, solved
from depthprune.recovery.flatten.stream import PairStates, Watched, in_float32
from depthprune.recovery.norm_after import NormAfter

# The energy of a channel that no sample woke, as a share of the mean.
ASLEEP = 1e-6


@dataclass(frozen=True)
class Made:
    """One layer in place of two, in the model's dtype.

    Attributes:
        how: `cut`, `map`, `refit` or `flatten`.
        error: the mean over held-out tokens of ‖ĥ_b − h_b‖²/‖h_b‖².
        rho: the strengths of the ridges of attention and MLP, where they were fitted.
        groups, channels: how many come from either layer, where both were asked.
        refined: whether a fit through a norm was improved after its closed form.
    """

    layer: nn.Module
    how: str
    error: float
    heads: Heads
    rho: tuple[float | None, float | None] = (None, None)
    groups: tuple[int, int] | None = None
    channels: tuple[int, int] | None = None
    refined: bool = False


class Making:
    """Makes layers of a pair; what several of them need is computed once."""

    def __init__(self, pair: Pair, rhos: Sequence[float], dtype: torch.dtype | None = None) -> None:
        """`dtype` is that of the checkpoint: what is made is rounded to it before it is judged."""
        self.pair, self.rhos, self.dtype = pair, rhos, dtype
        self.attention, self.mlp = pair.parts.attention, pair.parts.mlp

    def cut(self, place: int) -> Made:
        """One of the two as it is, 0 or 1."""
        layer = copy.deepcopy(self.pair.sources[place])
        return Made(layer, "cut", self.error(layer, _side(place)), _side(place))

    def map(self, place: int, rhos: Sequence[float] | None = None, refine: bool = False) -> Made:
        """One of the two, 0 or 1, with a map [d, d] of what its MLP writes, fitted to what both did.

        GradMAP's repair (arXiv:2602.14649, eq. 10): fewer numbers than `refit` has, for few samples.
        """
        return self.mended("map", place, rhos, refine)

    def refit(self, place: int, rhos: Sequence[float] | None = None, refine: bool = False) -> Made:
        """One of the two, 0 or 1, with what its MLP writes fitted to what both did.

        With `refine`, a fit through a norm is improved after its closed form; others are exact.
        """
        return self.mended("refit", place, rhos, refine)

    def mended(self, how: str, place: int, rhos: Sequence[float] | None, refine: bool) -> Made:
        """`map` or `refit`, by name."""
        heads, source = _side(place), self.pair.sources[place]
        old = rows(source.get_submodule(self.mlp.writes)).mT.double()
        tokens, start = self._mlp_tokens, old
        if how == "map":
            tokens, start = self._written_tokens, torch.eye(old.shape[1], dtype=old.dtype, device=old.device)
        after = norm_of(source, self.mlp)
        fit = self._solved(self.mlp, partial(tokens, source, heads), start, after, rhos or self.rhos, refine)
        layer = copy.deepcopy(source)
        weight = old @ fit.weight.to(old) if how == "map" else fit.weight
        put_writes(layer, self.mlp, replace(fit, weight=weight))
        return Made(layer, how, self.error(layer, heads), heads, (None, fit.rho), refined=refine)

    def flatten(
        self,
        heads: Heads,
        rhos: tuple[Sequence[float], Sequence[float]] | None = None,
        refine: bool = False,
    ) -> Made:
        """Both in one: attention first, then the MLP on the stream behind it; `refine` as for `refit`."""
        for_attention, for_mlp = rhos or (self.rhos, self.rhos)
        layer = copy.deepcopy(self.pair.sources[heads == "second"])
        attention = Attention(self.pair, self._first_pass, heads, for_attention, refine)
        attention.put(layer)
        put_reads(layer, self.pair.sources, self.mlp, self.pair.channels, self._channels)
        settle_norm(layer, self.mlp)
        strengths = attention.fit.rho, self._put_mlp(layer, heads, for_mlp, refine)
        groups, channels = attention.groups.counts, self._channels.counts
        error = self.error(layer, heads)
        return Made(layer, "flatten", error, heads, strengths, groups, channels, refine)

    def refined(self, made: Made) -> Made:
        """A mapped, refitted or flattened layer once more, its fits through norms improved."""
        attention, mlp = made.rho
        assert mlp is not None
        if attention is None:
            return self.mended(made.how, int(made.heads == "second"), (mlp,), refine=True)
        return self.flatten(made.heads, ((attention,), (mlp,)), refine=True)

    @property
    def has_norms(self) -> bool:
        """Whether what is written goes through a norm, for which a closed form is only a start."""
        return self.attention.after is not None or self.mlp.after is not None

    def error(self, layer: nn.Module, heads: Heads) -> float:
        """Of a layer, rounded in place to the dtype of the checkpoint, on the held-out samples."""
        if self.dtype is not None:
            for parameter in layer.parameters():
                parameter.data = parameter.data.to(self.dtype).to(parameter.dtype)
        return self.pair.error(layer, heads, self.pair.held_out)

    def _solved(
        self,
        branch: Branch,
        tokens: Callable[[Sequence[PairStates]], Tokens],
        start: Tensor,
        after: NormAfter | None,
        rhos: Sequence[float],
        refine: bool,
    ) -> Written:
        """What a branch is to write, through the norm after it if there is one."""
        return solved(tokens, self.pair, start, after, self.pair.has_bias(branch.writes), rhos, refine)

    @cached_property
    def _first_pass(self) -> FirstPass:
        return first_pass(self.pair)

    def _put_mlp(self, layer: nn.Module, heads: Heads, rhos: Sequence[float], refine: bool) -> float:
        """Fits what the MLP writes, and the attention once more where both read the same; returns ρ."""
        like, lengths = self.pair.sources[heads == "second"], self._first_pass.lengths[1]
        after = shared_norm(self.pair.sources, self.mlp, like, lengths)
        start = effective_writes(self.pair.sources, self.mlp, like, lengths)[self._chosen]
        if not self.pair.parts.parallel:
            fit = self._solved(self.mlp, partial(self._mlp_tokens, layer, heads), start, after, rhos, refine)
            put_writes(layer, self.mlp, fit)
            return fit.rho
        own = rows(layer.get_submodule(self.attention.writes)).mT.double()
        tokens = partial(self._joint_tokens, layer, heads)
        fit = self._solved(
            self.attention, tokens, torch.cat([own, start]), norm_of(like, self.attention), rhos, refine
        )
        zero = None if fit.intercept is None else torch.zeros_like(fit.intercept)
        put_writes(layer, self.attention, Written(fit.rho, fit.weight[: len(own)], fit.intercept))
        put_writes(layer, self.mlp, Written(fit.rho, fit.weight[len(own) :], zero))
        return fit.rho

    @cached_property
    def _chosen(self) -> Tensor:
        """The channels that stay, of 0 … 2F − 1, ascending: most of Σ w·z²·‖column of D‖²."""
        energy = self._first_pass.channels
        # One that these samples never woke is worth what it writes, a little.
        energy = energy + ASLEEP * energy.mean()
        strength = energy * torch.cat(writes_in_stream(self.pair.sources, self.mlp)).square().sum(dim=1)
        return strength.topk(len(self.pair.channels)).indices.sort().values

    @property
    def _channels(self) -> Units:
        return Units.of_both(self._chosen.cpu(), len(self.pair.channels))

    def _mlp_tokens(self, layer: nn.Module, heads: Heads, states: Sequence[PairStates]) -> Tokens:
        """A layer's channels on the input of the pair, and what is missing behind its attention."""
        given, mlp = written(self.attention), self.mlp.writes
        watched = Watched(in_float32(layer), [given, mlp])
        for state in states:
            _, entered, left = watched(state.calls[heads == "second"], state.before)
            missing = (state.after - state.before) / self.pair.multiplier - left[given]
            yield entered[mlp][state.real], missing[state.real], state.weights

    def _written_tokens(self, layer: nn.Module, heads: Heads, states: Sequence[PairStates]) -> Tokens:
        """What a layer's MLP writes, before its bias and a norm, and what is missing behind its attention."""
        linear: Any = layer.get_submodule(self.mlp.writes)
        weight = rows(linear).float()
        for channels, missing, weights in self._mlp_tokens(layer, heads, states):
            yield channels @ weight.mT, missing, weights

    def _joint_tokens(self, layer: nn.Module, heads: Heads, states: Sequence[PairStates]) -> Tokens:
        """Where attention and MLP read the same: what both write is fitted together."""
        paths = [self.attention.writes, self.mlp.writes]
        watched = Watched(in_float32(layer), paths)
        for state in states:
            _, entered, _ = watched(state.calls[heads == "second"], state.before)
            features = torch.cat([entered[path] for path in paths], dim=-1)
            missing = (state.after - state.before) / self.pair.multiplier
            yield features[state.real], missing[state.real], state.weights


def _side(place: int) -> Heads:
    return "second" if place else "first"
