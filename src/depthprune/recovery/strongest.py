"""The strongest weights of a removed layer, by the gradients of the scoring run, and where they go."""

from pathlib import Path
from typing import Any

import torch

from depthprune.importance.factors import mean_squared_gradient
from depthprune.model.anatomy import (
    TRANSPOSED_EXPERTS,
    LinearWeight,
    decoder_layers,
    layers_path,
    linear_weights,
)
from depthprune.selection import count_from_ratio


@torch.no_grad()
def merge_strongest(
    model: torch.nn.Module, kept: int, sources: list[int], gradients: Path, keep_top: float
) -> list[dict[str, Any]]:
    """Adds the strongest weights of the layers `sources` to the layer `kept`, in place; a row a source."""
    layers, path = decoder_layers(model), layers_path(model)
    weights = {source: linear_weights(layers[source]) for source in sources}
    report = {
        source: {"layer": source, "into": kept, "elements": 0, "added": 0, "skipped": []}
        for source in sources
    }
    for name, target in linear_weights(layers[kept]).items():
        # Several sources are summed in fp32 and rounded once: adding never flips a sign of W_k.
        total = target.parameter.float()
        for source in sources:
            weight = weights[source].get(name)
            row: Any = report[source]
            gradient = None
            if weight is not None and weight.parameter.shape == target.parameter.shape:
                gradient = _igia_matrix(gradients, f"{path}.{source}", layers[source], weight)
            if weight is None or gradient is None:
                row["skipped"].append(name)
                continue
            mask = top_fraction(gradient, keep_top)
            row["elements"] += int(mask.sum())
            mask &= torch.sign(weight.parameter) == torch.sign(target.parameter)
            row["added"] += int(mask.sum())
            total = torch.where(mask, total + weight.parameter.float(), total)
        target.parameter.copy_(total)
    return list(report.values())


def _igia_matrix(
    gradients: Path, path: str, layer: torch.nn.Module, weight: LinearWeight
) -> torch.Tensor | None:
    """F_W of one weight of the layer at `path`, laid out as the weight is stored; None without adapter."""
    name = weight.name.removesuffix(".weight")
    matrix = mean_squared_gradient(gradients, f"{path}.{name}", weight.experts, weight.parameter.device)
    holder = type(layer.get_submodule(weight.name.rpartition(".")[0])).__name__
    # PEFT takes experts that do not say how they are stored for [E, out, in], and adapts them as such.
    product_as_stored = not weight.transposed or holder in TRANSPOSED_EXPERTS
    return matrix if matrix is None or product_as_stored else matrix.mT


def top_fraction(values: torch.Tensor, fraction: float) -> torch.Tensor:
    """A mask of exactly round(fraction × n) of the largest elements of each matrix; ties go to the first.

    By selection instead of a sort. `values` is [out, in], or [E, out, in] with each expert on its own; a
    matrix of zeros (an expert that saw no token) keeps nothing.
    """
    matrices = values.reshape(-1, values.shape[-2] * values.shape[-1])
    count = max(1, count_from_ratio(fraction, matrices.shape[1]))
    mask = torch.zeros_like(matrices, dtype=torch.bool)
    for row, flat in zip(mask, matrices, strict=True):
        if not flat.any():
            continue
        threshold = flat.kthvalue(flat.numel() - count + 1).values
        row |= flat > threshold
        tied = (flat == threshold).nonzero().squeeze(1)[: count - int(row.sum())]
        row[tied] = True
    return mask.reshape(values.shape)
