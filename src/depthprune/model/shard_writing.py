"""Writing a checkpoint's safetensors files out of the bytes of others'."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

from depthprune.files import sync
from depthprune.model.ranges import copy_range
from depthprune.model.shards import INDEX, SINGLE, Place, Shard, torn

LARGEST_SHARD = 5 * 10**9
"""Bytes of tensors in a file, as the hub likes them; a larger tensor has a file to itself."""
STEP = 2**28
"""Bytes that are copied without looking whether they are still wanted."""


@dataclass(frozen=True)
class Piece:
    """A tensor to be written, and where its bytes lie."""

    name: str
    shard: Shard
    old: str
    """Its name there."""

    @property
    def stored(self) -> dict[str, Any]:
        """What the shard's header says of it."""
        return self.shard.tensors[self.old]

    @property
    def place(self) -> Place:
        return self.shard.place(self.old)

    @property
    def size(self) -> int:
        return self.place[2]

    @property
    def element_bytes(self) -> int:
        """Of its dtype; 1 for those of less than a byte."""
        bits = re.search(r"\d+", self.stored["dtype"])
        return max(1, int(bits[0]) // 8) if bits else 1


def pieces_of(shards: Sequence[Shard], renamed: Callable[[str], str | None]) -> list[Piece]:
    """The tensors under their new names, in the order in which they lie in the files; None leaves one out."""
    return [
        Piece(new, shard, old)
        for shard in shards
        for old, _ in sorted(shard.tensors.items(), key=lambda item: item[1]["data_offsets"])
        if (new := renamed(old)) is not None
    ]


class Halted(Exception):
    """What is being written is no longer wanted."""


def write_shards(
    pieces: Iterable[Piece], output: Path, largest: int = LARGEST_SHARD, halt: Event | None = None
) -> None:
    """Writes the tensors, in this order, into files of at most `largest` bytes of data, and their index.

    A file is on its way to the disk while the next one is copied. Raises UserError where a source is torn,
    and Halted soon after `halt` is set.
    """
    parts = list(_parts(pieces, largest))
    weight_map: dict[str, str] = {}
    syncing: list[Future[None]] = []
    with ThreadPoolExecutor(1) as aside:
        for number, part in enumerate(parts, start=1):
            name = SINGLE if len(parts) == 1 else f"model-{number:05d}-of-{len(parts):05d}.safetensors"
            _write_shard(part, output / name, halt or Event())
            syncing.append(aside.submit(sync, output / name))
            weight_map |= {piece.name: name for piece in part}
    for done in syncing:
        done.result()
    if len(parts) > 1:
        total = sum(piece.size for part in parts for piece in part)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (output / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _parts(pieces: Iterable[Piece], largest: int) -> Iterator[list[Piece]]:
    """What goes into each file: as much as fits, and wide numbers first, so that all lie aligned."""
    part: list[Piece] = []
    filled = 0
    for piece in pieces:
        if part and filled + piece.size > largest:
            yield sorted(part, key=lambda one: -one.element_bytes)
            part, filled = [], 0
        part.append(piece)
        filled += piece.size
    if part:
        yield sorted(part, key=lambda one: -one.element_bytes)


def _write_shard(pieces: Sequence[Piece], path: Path, halt: Event) -> None:
    encoded = _header(pieces)
    with path.open("wb") as target:
        target.write(len(encoded).to_bytes(8, "little") + encoded)
        target.flush()
        for source, start, size in _runs(pieces):
            with source.open("rb", buffering=0) as opened:
                for done in range(0, size, STEP):
                    if halt.is_set():
                        raise Halted
                    _copy(opened, start + done, min(STEP, size - done), target)


def _header(pieces: Sequence[Piece]) -> bytes:
    metadata: dict[str, str] = {}
    for piece in pieces:
        metadata = piece.shard.metadata | metadata
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    ends = list(accumulate(piece.size for piece in pieces))
    for piece, end in zip(pieces, ends, strict=True):
        header[piece.name] = {**piece.stored, "data_offsets": [end - piece.size, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    return encoded + b" " * (-len(encoded) % 8)  # the data begins aligned, as the format's own writer has it


def _runs(pieces: Sequence[Piece]) -> Iterator[Place]:
    """The places of neighbours that are neighbours in the source, too, as one."""
    run: Place | None = None
    for piece in pieces:
        path, start, size = piece.place
        if run is not None and (run[0], run[1] + run[2]) == (path, start):
            run = (path, run[1], run[2] + size)
            continue
        if run is not None:
            yield run
        run = (path, start, size)
    if run is not None:
        yield run


def _copy(source: BinaryIO, start: int, size: int, target: BinaryIO) -> None:
    try:
        copy_range(source.fileno(), start, size, target.fileno())
    except EOFError:
        raise torn(Path(source.name)) from None
