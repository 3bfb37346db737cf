"""The safetensors files of a checkpoint: which they are, whether they are whole, what they hold."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthprune.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@dataclass(frozen=True)
class Shard:
    """A safetensors file's header: `tensors` maps a name to its dtype, shape and data_offsets.

    The offsets count from `data_start`, in bytes; `metadata` is the file's own, usually {"format": "pt"}.
    """

    path: Path
    tensors: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    data_start: int


def read_shard(path: Path) -> Shard:
    """Reads a safetensors header; raises UserError where the file is torn."""
    torn = f"{path} is torn, it ends before its last tensor: copy or download it again"
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise UserError(torn)
        header = file.read(length)
    try:
        tensors = json.loads(header)
    except ValueError:
        raise UserError(f"{path} is not a safetensors file: its header cannot be read") from None
    metadata = tensors.pop("__metadata__", {})
    end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    if size < 8 + length + end:
        raise UserError(torn)
    if size > 8 + length + end:
        raise UserError(f"{path} goes on after its last tensor: copy or download it again")
    return Shard(path, tensors, metadata, 8 + length)


def read_shards(folder: Path) -> list[Shard]:
    """The headers of all weight files in a model folder.

    Raises UserError where files are missing or torn, where the index does not agree with them, and where the
    weights are pickles.
    """
    if (folder / SINGLE).is_file():
        return [read_shard(folder / SINGLE)]
    if not (folder / INDEX).is_file():
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")):
            raise UserError(f"{folder} has its weights as pickles: convert them to safetensors")
        raise UserError(f"{folder} has no {SINGLE} and no {INDEX}: name a folder with a model's weights")
    weight_map = _read_index(folder / INDEX)
    for name in set(weight_map.values()):
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing, {INDEX} names it: copy or download it again")
    shards = [read_shard(folder / name) for name in sorted(set(weight_map.values()))]
    for shard in shards:
        expected = {tensor for tensor, name in weight_map.items() if name == shard.path.name}
        if different := sorted(expected ^ shard.tensors.keys()):
            raise UserError(f"{shard.path} and {INDEX} do not agree about {different[0]}: copy both again")
    return shards


def _read_index(path: Path) -> dict[str, str]:
    try:
        return json.loads(path.read_text())["weight_map"]
    except (ValueError, KeyError):
        raise UserError(f"{path} cannot be read: copy or download it again") from None
