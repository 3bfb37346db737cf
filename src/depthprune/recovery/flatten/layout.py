"""Where the heads of an attention and the channels of an MLP lie in the weights that read and write them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from depthprune.model.parts import Branch


def rows(linear: Any) -> Tensor:
    """The weight of a linear as [out, in], a view, however it is stored."""
    return linear.weight.mT if isinstance(linear, Conv1D) else linear.weight


@dataclass(frozen=True)
class Layout:
    """The units of a branch: an attention's groups (a key-value head with its queries), an MLP's channels.

    Attributes:
        reads: linear → the rows of each unit, [units, rows a unit].
        columns: the columns of each unit in the linear that writes, [units, columns a unit].
    """

    reads: dict[str, Tensor]
    columns: Tensor

    def __len__(self) -> int:
        return len(self.columns)


def attention_layout(layer: nn.Module, branch: Branch, kv_heads: int) -> Layout | None:
    """The groups of an attention, or None where its rows do not fall into groups by a layout known here."""
    columns = torch.arange(rows(layer.get_submodule(branch.writes)).shape[1])
    if len(columns) % kv_heads:
        return None
    reads = {}
    for path in branch.reads:
        found = _attention_rows(path.rpartition(".")[2], layer.get_submodule(path), kv_heads, len(columns))
        if found is None:
            return None
        reads[path] = found
    return Layout(reads, columns.view(kv_heads, -1))


def _attention_rows(name: str, linear: nn.Module, kv_heads: int, width: int) -> Tensor | None:
    """The rows of each group, [groups, rows]; `width` is the number of all query heads' dimensions."""
    count = len(rows(linear))
    every = torch.arange(count)
    if name in ("q_proj", "k_proj", "v_proj"):
        known = count == width if name == "q_proj" else count % kv_heads == 0 and count <= width
        return every.view(kv_heads, -1) if known else None
    if name in ("qkv_proj", "c_attn"):  # all queries, all keys, all values
        if count < width or (count - width) % (2 * kv_heads):
            return None
        parts = every.split([width, (count - width) // 2, (count - width) // 2])
        return torch.cat([part.view(kv_heads, -1) for part in parts], dim=1)
    if name == "query_key_value":  # group after group
        return every.view(kv_heads, -1) if count % kv_heads == 0 else None
    return None


def mlp_layout(layer: nn.Module, branch: Branch) -> Layout | None:
    """The channels of an MLP; where gate and up are one linear, a channel has a row in either half."""
    channels = rows(layer.get_submodule(branch.writes)).shape[1]
    reads = {}
    for path in branch.reads:
        count = len(rows(layer.get_submodule(path)))
        if count % channels:
            return None
        reads[path] = torch.arange(count).view(-1, channels).T.contiguous()
    return Layout(reads, torch.arange(channels)[:, None])
