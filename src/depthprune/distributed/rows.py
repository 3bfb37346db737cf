"""The rows of an update, shared by several processes: the same updates as of one.

A recipe's numbers are those of one process. Of an epoch's last rows some processes may get fewer, or none:
blank places stand for them, so that all make as many passes, and what is learned is exactly those rows.
"""

from collections.abc import Callable, Iterator
from itertools import chain, repeat
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from depthprune.data.batches import IGNORED
from depthprune.errors import UserError
from depthprune.settings import TrainerSettings

BLANK_TOKENS = 2
"""Of the row that a process takes through the model, and learns nothing of, where it has none."""


def share_of(settings: TrainerSettings, processes: int, slot: str = "training") -> tuple[int, int]:
    """Rows at once, and passes for an update, of each of so many processes.

    As many rows at once as the settings say, where that divides the share, so that a device is as full as
    with one process. Raises `UserError` where an update's rows cannot be shared evenly.
    """
    at_once, passes = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
    share, left_over = divmod(at_once * passes, processes)
    if left_over:
        raise UserError(
            f"an update of {slot} takes {at_once * passes} rows, which {processes} processes cannot share "
            f"evenly: make {slot}.per_device_train_batch_size ({at_once}) times "
            f"{slot}.gradient_accumulation_steps ({passes}) a multiple of {processes}"
        )
    rows = max(rows for rows in range(1, at_once + 1) if share % rows == 0)
    return rows, share // rows


class EvenSampler(Sampler[int]):
    """Another sampler's order, then blank places up to a multiple of some number."""

    def __init__(self, order: Any, multiple: int) -> None:
        self.order = order
        self.blank = len(order)
        self.blanks = -len(order) % multiple

    def __iter__(self) -> Iterator[int]:
        return chain(self.order, repeat(self.blank, self.blanks))

    def __len__(self) -> int:
        return self.blank + self.blanks

    def set_epoch(self, epoch: int) -> None:
        self.order.set_epoch(epoch)


class WithBlanks(Dataset):
    """The rows, and None at the place behind the last."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, Any] | None:
        return self.rows[place] if place < len(self.rows) else None


class WithoutBlanks:
    """A collator of the rows that are none of the blanks; where all are, of one that is not learned."""

    def __init__(self, collate: Callable[[list[Any]], dict[str, Any]], rows: Any) -> None:
        self.collate = collate
        self.rows = rows

    def __call__(self, rows: list[dict[str, Any] | None]) -> dict[str, Any]:
        if there := [row for row in rows if row is not None]:
            return self.collate(there)
        row = {
            name: value[:BLANK_TOKENS] if isinstance(value, list) else value
            for name, value in self.rows[0].items()
        }
        batch = self.collate([row])
        batch["labels"] = torch.full_like(batch["labels"], IGNORED)
        taught = [name for name in batch if name.startswith("teacher_")]
        return {**batch, **{name: batch[name][:0] for name in taught}}
