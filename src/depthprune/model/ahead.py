"""Copying a checkpoint's tensors while it is still being found out which they are.

Whether layers can go, only transformers can tell, and it takes seconds to import. Which tensors then stay can
be told at once of nearly every family: they are copied meanwhile, and copied again where it was a mistake.
"""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from depthprune.files import delete
from depthprune.model.moves import Moves
from depthprune.model.shard_writing import Piece, pieces_of, write_shards
from depthprune.model.shards import Shard

LAYER = re.compile(r"((?:.*?\.)?(?:layers|h|blocks)\.)(\d+)\.")
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def likely_pieces(stated: dict[str, Any], shards: Sequence[Shard], layers: Sequence[int]) -> list[Piece]:
    """The tensors that stay where a checkpoint has one stack of layers, as many as its config.json states.

    None of them where it is another, or the layers are not in it.
    """
    stacks: dict[str, set[int]] = {}
    for shard in shards:
        for name in shard.tensors:
            if found := LAYER.match(name):
                stacks.setdefault(found[1], set()).add(int(found[2]))
    if len(stacks) != 1:
        return []
    ((prefix, numbers),) = stacks.items()
    every = set(range(len(numbers)))
    depths = [stated[name] for name in DEPTHS if name in stated]
    if numbers != every or depths != [len(every)] or not set(layers) < every:
        return []
    return pieces_of(shards, Moves(prefix, tuple(sorted(every - set(layers))), {}, ()).renamed)


@dataclass
class Copying:
    """What is being written into a folder, and how to stop it."""

    pieces: list[Piece]
    folder: Path
    halt: Event
    written: "Future[None]"

    def settle(self, pieces: list[Piece]) -> None:
        """Returns once these tensors are written: those that are being written, or others in their place."""
        if pieces == self.pieces:
            return self.written.result()
        self.stop()
        for file in self.folder.iterdir():
            delete(file)
        return write_shards(pieces, self.folder)

    def stop(self) -> None:
        """Returns once nothing is written any more."""
        self.halt.set()
        with suppress(Exception):  # whatever went wrong, it is not what is wanted
            self.written.result()


@contextmanager
def copying_ahead(pieces: list[Piece], folder: Path) -> Iterator[Copying]:
    """Writes these tensors in a thread, until the block ends."""
    halt = Event()
    with ThreadPoolExecutor(1) as aside:
        copying = Copying(pieces, folder, halt, aside.submit(write_shards, pieces, folder, halt=halt))
        try:
            yield copying
        finally:
            copying.stop()
