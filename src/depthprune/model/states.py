"""Hidden states of many batches: in memory as long as there is room, then in files that are mapped."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from depthprune.model.memory import free_bytes

# Of the memory that is free; the rest is for a layer, and for what it computes.
_SHARE_OF_FREE = 0.25


class Room:
    """How many bytes hidden states may take in memory, and a folder for those that have no room there."""

    def __init__(self, device: torch.device, folder: Path, size: int | None = None) -> None:
        self.device, self.folder = device, folder
        self.size = int(_SHARE_OF_FREE * free_bytes(device)) if size is None else size

    def of(self, states: Iterable[Tensor]) -> "States":
        """These states, which are kept where there is room."""
        return States(self, states)

    def slot(self, like: Tensor) -> Tensor | None:
        """Where a tensor lies that has no room in memory; None for one that has."""
        self.size -= like.nbytes
        if self.size >= 0:
            return None
        return mapped_file(like, self.folder)


def mapped_file(like: Tensor, folder: Path) -> Tensor:
    """A tensor of that shape on the CPU, mapped from a file in the folder that goes with it."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:  # mapped, it stays though the name goes
        return torch.from_file(file.name, shared=True, size=like.numel(), dtype=like.dtype).view(like.shape)


class States:
    """A hidden state of each batch, [B, T, d]; one that is set takes the place of the one before."""

    def __init__(self, room: Room, states: Iterable[Tensor]) -> None:
        self.room = room
        self._slots: list[Tensor | None] = []
        self._states: list[Tensor | None] = []
        for state in states:
            self.append(state)

    def append(self, state: Tensor) -> None:
        """The state of one more batch."""
        self._slots.append(self.room.slot(state))
        self._states.append(None)
        self[len(self) - 1] = state

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, n: int) -> Tensor:
        slot, state = self._slots[n], self._states[n]
        return state if slot is None else slot.to(self.room.device)  # type: ignore[return-value]

    def __setitem__(self, n: int, state: Tensor) -> None:
        slot = self._slots[n]
        if slot is None:
            self._states[n] = state
        else:
            slot.copy_(state)
