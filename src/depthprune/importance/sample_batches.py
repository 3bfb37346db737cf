"""Calibration samples in batches that fit memory."""

import logging
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from depthprune.errors import UserError
from depthprune.importance.base import Batches
from depthprune.importance.per_sample import PerSampleNorms
from depthprune.model.anatomy import decoder, decoder_layers, unwrap
from depthprune.model.head import IGNORED
from depthprune.model.hooks import layer_input
from depthprune.model.memory import free_bytes

log = logging.getLogger("depthprune")

_SHARE_OF_GRADIENTS = 1.4
# What any machine can spare; a small model's weight gradients would allow less.
_LEAST_BYTES = 2**27
# Of an accelerator's free memory; gradients and temporary buffers take the rest.
_SHARE_OF_FREE = 0.7


@dataclass(frozen=True)
class Sample:
    """One sample without its padding: token ids [t], and labels [t] with −100 where no target is."""

    input_ids: Tensor
    labels: Tensor


def split_samples(batches: Batches) -> list[Sample]:
    """Every row with its real tokens only, longest first; without labels every token is a target.

    A sample without a target token has no loss: it is left out, and said.

    Raises:
        UserError: no sample has a target token.
    """
    samples, skipped = [], 0
    for batch in batches:
        labels = batch.get("labels", batch["input_ids"])
        for ids, targets, mask in zip(
            batch["input_ids"], labels, batch["attention_mask"].bool(), strict=True
        ):
            sample = Sample(ids[mask].cpu(), targets[mask].cpu())
            if (sample.labels[1:] != IGNORED).any():
                samples.append(sample)
            else:
                skipped += 1
    if not samples:
        raise UserError(
            "gradient-norm: no calibration sample has a token to predict; give samples of two tokens or more "
            "whose labels are not all -100"
        )
    if skipped:
        count = skipped + len(samples)
        log.warning("gradient-norm: %d of %d samples left out, without a token to predict", skipped, count)
    return sorted(samples, key=lambda sample: len(sample.input_ids), reverse=True)


def pad(samples: list[Sample], device: torch.device) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` and `labels`, each [B, T], padded on the right to the longest."""
    length = max(len(sample.input_ids) for sample in samples)

    def rows(tensors: list[Tensor], value: int) -> Tensor:
        padded = [F.pad(tensor, (0, length - len(tensor)), value=value) for tensor in tensors]
        return torch.stack(padded).to(device)

    return {
        "input_ids": rows([sample.input_ids for sample in samples], 0),
        "attention_mask": rows([torch.ones_like(sample.input_ids) for sample in samples], 0),
        "labels": rows([sample.labels for sample in samples], IGNORED),
    }


def memory_budget(model: nn.Module) -> int:
    """Bytes that activations may take, in proportion to the weight gradients that a loop would hold.

    1.4 times those of the layers: with the model itself at most 1.2 times the loop's memory. On a CUDA device
    no more than what is free there.
    """
    weights = sum(p.numel() * p.element_size() for p in decoder_layers(model).parameters())
    budget = max(int(_SHARE_OF_GRADIENTS * weights), _LEAST_BYTES)
    device = unwrap(model).device
    if device.type == "cuda":
        budget = min(budget, int(_SHARE_OF_FREE * free_bytes(device)))
    return budget


@dataclass(frozen=True)
class ActivationBytes:
    """What one sample's forward pass keeps for the backward pass, in bytes.

    `plain`: all activations. `recomputed`: with checkpointing, the layers' inputs and one layer's own.
    """

    plain: int
    recomputed: int


class _Held:
    """Storages that a forward pass keeps, weights apart, each counted once."""

    def __init__(self, model: nn.Module) -> None:
        self._weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        self._storages: dict[int, torch.UntypedStorage] = {}

    def keep(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._weights:
            self._storages[storage.data_ptr()] = storage

    def release(self) -> int:
        """The bytes held so far; lets go of them."""
        size = sum(storage.nbytes() for storage in self._storages.values())
        self._storages.clear()
        return size


def activation_bytes(model: nn.Module, sample: Sample, norms: PerSampleNorms) -> ActivationBytes:
    """Of the whole sample, from two short forward passes: it grows with T, in eager attention with T²."""
    length = len(sample.input_ids)
    short, longer = max(2, length // 8), max(3, length // 4)
    if longer >= length:
        return ActivationBytes(*_measure(model, sample.input_ids, norms))
    sizes = [_measure(model, sample.input_ids[:tokens], norms) for tokens in (short, longer)]
    return ActivationBytes(*(_extrapolate(short, a, longer, b, length) for a, b in zip(*sizes, strict=True)))


def _extrapolate(short: int, short_bytes: int, longer: int, longer_bytes: int, length: int) -> int:
    """a·T + b·T² at T = length, through both points, b ≥ 0."""
    square = max(0.0, (longer_bytes / longer - short_bytes / short) / (longer - short))
    return int((longer_bytes / longer - square * longer + square * length) * length)


def _measure(model: nn.Module, input_ids: Tensor, norms: PerSampleNorms) -> tuple[int, int]:
    """Runs a forward pass with `norms` attached and lets go of each layer's activations after it."""
    held = _Held(model)
    sizes: list[int] = []
    inputs: list[int] = []

    def enter(_: nn.Module, args: tuple, kwargs: dict) -> None:
        hidden = layer_input(args, kwargs)
        inputs.append(hidden.numel() * hidden.element_size())

    def leave(*_: object) -> None:
        for tensor in norms.kept():
            held.keep(tensor)
        sizes.append(held.release())
        norms.begin(1, len(input_ids))

    with ExitStack() as stack, norms.attached(), saved_tensors_hooks(held.keep, _never_needed):
        for layer in decoder_layers(model):
            stack.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(layer.register_forward_hook(leave).remove)
        norms.begin(1, len(input_ids))
        decoded = decoder(model)(input_ids=input_ids[None].to(unwrap(model).device), use_cache=False)
    hidden = decoded["last_hidden_state"]
    head = held.release() + 2 * hidden.numel() * hidden.element_size()  # and its gradient
    return sum(sizes) + head, sum(inputs) + max(sizes, default=0) + head


def _never_needed(_: None) -> Tensor:
    raise AssertionError("no backward pass follows")
