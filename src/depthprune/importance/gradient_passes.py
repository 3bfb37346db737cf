"""The passes that gradient norms are read from: how large their batches are, and what is kept meanwhile."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from depthprune.cost import with_progress
from depthprune.errors import UserError
from depthprune.importance.base import Batches
from depthprune.importance.gradient_walk import walked_sums
from depthprune.importance.per_sample import PerSampleNorms, frozen
from depthprune.importance.sample_batches import (
    Sample,
    activation_bytes,
    memory_budget,
    pad,
    split_samples,
)
from depthprune.model.anatomy import decoder_layers, layers_path, unwrap
from depthprune.model.head import backward_sample_losses
from depthprune.model.offloaded import Values, shelf_of

log = logging.getLogger("depthprune")


@dataclass(frozen=True)
class GradientPasses:
    """Batched passes with the weights frozen; both fields as in `GradientNorm`."""

    batch_size: int | None
    gradient_checkpointing: bool | None

    def __call__(
        self, model: nn.Module, batches: Batches, parts: Sequence[Sequence[nn.Module]] | None = None
    ) -> Tensor:
        """The mean sums of norms over the samples, of each layer or each of its parts, float32 on the CPU."""
        samples = split_samples(batches)
        depth = len(decoder_layers(model))
        if shelf_of(model) is not None:
            totals = walked_sums(model, samples)
            _check_finite(model, totals)
            return (totals / len(samples)).float()
        totals = torch.zeros(depth if parts is None else len(parts), dtype=torch.float64)
        with frozen(model):
            norms, sample_bytes = self._plan(model, samples[0], parts)
            with norms.attached():
                groups = list(self._groups(samples, sample_bytes, memory_budget(model)))
                sizes = [sum(len(sample.input_ids) for sample in group) for group in groups]
                for group in with_progress(groups, "gradient-norm", sizes):
                    totals += _score(model, norms, group)
                    _check_finite(model, totals.view(depth, -1).sum(dim=1))
        if norms.replayed:
            log.info("gradient-norm: a backward pass per sample for %s", ", ".join(sorted(norms.replayed)))
        return (totals / len(samples)).float()

    def _plan(
        self, model: nn.Module, longest: Sample, parts: Sequence[Sequence[nn.Module]] | None
    ) -> tuple[PerSampleNorms, int]:
        """The recorder, with checkpointing or without, and the activation bytes of the longest sample."""
        norms = PerSampleNorms(model, parts=parts)
        if self.batch_size is not None and self.gradient_checkpointing is not None:
            return PerSampleNorms(model, self.gradient_checkpointing, parts), 0
        size = activation_bytes(model, longest, norms)
        checkpointing = self.gradient_checkpointing
        if checkpointing is None:
            checkpointing = size.plain > memory_budget(model)
        return PerSampleNorms(model, checkpointing, parts), size.recomputed if checkpointing else size.plain

    def _groups(self, samples: list[Sample], sample_bytes: int, budget: int) -> Iterator[list[Sample]]:
        """Batches of samples, longest first; shorter ones come in larger batches."""
        start = 0
        while start < len(samples):
            length = len(samples[start].input_ids)
            count = self.batch_size
            if count is None:
                scaled = sample_bytes * length / len(samples[0].input_ids)
                count = max(1, int(budget // scaled))
            if count == length:
                count -= 1  # tensors of T rows could be taken for tensors of B rows
            yield samples[start : start + count]
            start += count


def _score(model: nn.Module, norms: PerSampleNorms, group: list[Sample]) -> Tensor:
    """The sums of norms over one batch, float64 [L]."""
    batch = pad(group, unwrap(model).device)
    norms.begin(*batch["input_ids"].shape)
    backward_sample_losses(model, batch)
    sums = norms.finish()
    if norms.mixed:
        return torch.stack([_score(model, norms, [sample]) for sample in group]).sum(dim=0)
    return sums


def _check_finite(model: nn.Module, totals: Tensor) -> None:
    """Raises `UserError` naming the damaged weight, or else the first layer without a finite gradient."""
    if totals.isfinite().all():
        return
    prefix = f"{layers_path(model)}."
    values = Values(unwrap(model))
    for name, _ in unwrap(model).named_parameters():
        if not values[name].isfinite().all():
            layer = (
                f"layer {name.removeprefix(prefix).split('.')[0]}" if name.startswith(prefix) else "layer 0"
            )
            raise UserError(
                f"gradient-norm: the gradients of {layer} are not finite: {name} holds values that are not "
                "finite; the checkpoint is damaged, load another copy"
            )
    first = int((~totals.isfinite()).nonzero()[0])
    raise UserError(
        f"gradient-norm: the gradients of layer {first} are not finite though all weights are: load the "
        "model in float32 or bfloat16, whose range is wider than float16's"
    )
