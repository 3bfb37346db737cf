"""The safetensors files of a checkpoint: which they are, whether they are whole, what they hold."""

import json
import math
import operator
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open

from depthprune.errors import UserError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# What families call the list of their layers, where other lists happen to be as long.
LAYER_LISTS = ("layers", "h", "blocks", "layer")
TORCH_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
LONGEST_HEADER = 100_000_000
"""Bytes; safetensors reads no longer one."""
COMPARED_BYTES = 2**18
Place = tuple[Path, int, int]
"""A file, where in it something begins, and how many bytes it has."""


@dataclass(frozen=True)
class Shard:
    """A safetensors file's header: `tensors` maps a name to its dtype, shape and data_offsets.

    The offsets count from `data_start`, in bytes; `metadata` is the file's own, usually {"format": "pt"}.
    """

    path: Path
    tensors: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    data_start: int

    def place(self, name: str) -> Place:
        """Where a tensor's bytes lie."""
        begin, end = self.tensors[name]["data_offsets"]
        return self.path, self.data_start + begin, end - begin


def read_shard(path: Path) -> Shard:
    """Reads a safetensors header; raises UserError where safetensors would not read it, and says why."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or (length > size - 8 and length <= LONGEST_HEADER):
            raise torn(path)
        if length > LONGEST_HEADER:
            raise UserError(f"{path} is not a safetensors file: its header would take {length} bytes")
        header = _parse(path, file.read(length))
    metadata = header.pop("__metadata__", None) or {}
    end = _end(path, header)
    if size < 8 + length + end:
        raise torn(path)
    if size > 8 + length + end:
        raise UserError(f"{path} goes on after its last tensor: copy or download it again")
    try:
        with safe_open(path, "np"):  # knows the dtypes, and has the last word on the rest
            return Shard(path, header, metadata, 8 + length)
    except SafetensorError as error:
        raise UserError(f"{path}: safetensors refuses it: {error}; copy or download it again") from None


def torn(path: Path) -> UserError:
    """A file that ends before its last tensor."""
    return UserError(f"{path} is torn, it ends before its last tensor: copy or download it again")


def _parse(path: Path, header: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(header.decode(), object_pairs_hook=_without_twins)
    except (ValueError, RecursionError) as error:
        twin = f" ({error})" if isinstance(error, _Twin) else ""
        raise UserError(f"{path} is not a safetensors file: its header cannot be read{twin}") from None
    if not isinstance(parsed, dict):
        raise UserError(f"{path} is not a safetensors file: its header is no JSON object")
    return parsed


class _Twin(ValueError):
    """A name stands twice in a header: readers differ in which of the two they take."""


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise _Twin(f"it names {name!r:.100} twice")
    return found


def _end(path: Path, tensors: dict[str, Any]) -> int:
    """Where the data ends, in bytes; raises UserError where tensors overlap or leave holes."""
    for name, tensor in tensors.items():
        if not _is_tensor(tensor):
            raise UserError(
                f"{path}: its header gives {name!r:.200} no dtype, shape and data_offsets that can be read: "
                "copy or download it again"
            )
    end = 0
    for name in sorted(tensors, key=lambda name: tensors[name]["data_offsets"]):
        begin, stop = tensors[name]["data_offsets"]
        if begin != end or stop < begin:
            fault = "overlaps another tensor" if begin < end else "leaves a hole before it"
            fault = "ends before it begins" if stop < begin else fault
            raise UserError(f"{path}: {name!r:.200} {fault}: copy or download it again")
        end = stop
    return end


def _is_tensor(tensor: Any) -> bool:
    if not isinstance(tensor, dict) or not isinstance(tensor.get("dtype"), str):
        return False
    shape, offsets = tensor.get("shape"), tensor.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return False
    return all(type(number) is int and number >= 0 for number in (*shape, *offsets))  # a bool is an int, too


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
    """Tensor → file. A file is a plain name: the weights of a model lie in its own folder."""
    unreadable = UserError(f"{path} cannot be read: copy or download it again")
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_twins)[
            "weight_map"
        ]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise unreadable from None
    if not isinstance(weight_map, dict) or not weight_map:
        raise unreadable
    for tensor, name in weight_map.items():
        if not isinstance(name, str):
            raise unreadable
        if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
            raise UserError(
                f"{path} looks for {tensor} in {name!r:.200}, outside its folder: move the "
                "file beside the index, and name it without a folder"
            )
    return weight_map


def stored_dtype(shards: Sequence[Shard]) -> str | None:
    """The floating-point dtype that most of the stored numbers have, as torch calls it; None without any."""
    counts: Counter[str] = Counter()
    for shard in shards:
        for tensor in shard.tensors.values():
            if tensor["dtype"] in TORCH_DTYPES:
                counts[TORCH_DTYPES[tensor["dtype"]]] += math.prod(tensor["shape"])
    return counts.most_common(1)[0][0] if counts else None


def same_bytes(one: Place, other: Place) -> bool:
    """Whether two places hold the same."""
    with one[0].open("rb") as left, other[0].open("rb") as right:
        blocks = (_blocks(file, *place[1:]) for file, place in ((left, one), (right, other)))
        return one[2] == other[2] and all(map(operator.eq, *blocks))


def _blocks(source: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    source.seek(start)
    while length and (block := source.read(min(length, COMPARED_BYTES))):
        length -= len(block)
        yield block
