"""A dataset as the rest of the package knows it, and where it comes from: a file, a folder, or the hub."""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets

from depthprune.data.files import Record, format_of, read_file
from depthprune.data.folders import read_folder
from depthprune.data.rows import Checked, Kind, check_rows
from depthprune.data.splits import FOR_TRAINING
from depthprune.data.streams import uncompressed_name
from depthprune.data.tables import is_saved, read_hub, read_saved
from depthprune.errors import UserError

logger = logging.getLogger("depthprune")

CHAT_COLUMNS = ("prompt", "completion", "tools", "chat_template_kwargs")
_HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<config>[\w.-]+))?")


@dataclass(frozen=True)
class Examples:
    """Checked rows.

    name: for tables, the file's stem or the hub id.
    source: what the user typed.
    kind: decides how the rows are encoded and evaluated.
    rows: exactly the columns of the kind: `text`; or `prompt`, `completion` and, in all rows or none,
        `choices`. For "messages" prompt and completion are lists of messages as the chat template reads them:
        those before the last assistant turn, and that one; `tools` and `chat_template_kwargs` stand beside
        them where a row has any. Otherwise both are strings.
    places: where each row stands in the user's files, for messages about chats; may be empty.
    """

    name: str
    source: str
    kind: Kind
    rows: datasets.Dataset
    places: tuple[str, ...] = ()
    rendered: dict[Any, list[tuple[str, str]]] = field(default_factory=dict, compare=False, repr=False)
    """The texts of chats, by template; `data.chat` keeps them here."""

    @property
    def has_choices(self) -> bool:
        return "choices" in self.rows.column_names

    def select(self, indices: Sequence[int]) -> "Examples":
        """The rows of these numbers, in this order."""
        places = tuple(self.places[i] for i in indices) if self.places else ()
        rendered = {template: [texts[i] for i in indices] for template, texts in self.rendered.items()}
        return replace(self, rows=self.rows.select(indices), places=places, rendered=rendered)

    def place(self, i: int) -> str:
        """Where row `i` stands."""
        return self.places[i] if self.places else f"{self.source} row {i + 1}"


def load_examples(
    source: str | Path, split: str | None = None, preferred: tuple[str, ...] = FOR_TRAINING
) -> Examples:
    """Reads and checks every row of `source`.

    `source`: a file of JSONL, JSON, CSV, Parquet, Arrow or text (which is one document), compressed or not;
    a folder of these, or of `save_to_disk`; or a hub id, `owner/name` or `owner/name@config`. It may end in
    `:split`; without it, and without `split`, the first split of `preferred` that is there is read.

    Nothing is written beside the user's files, and they are read anew at each call. Raises `UserError` for a
    missing or unreadable source, for the first malformed row, for no rows, and for `choices` with one class.
    """
    path, split = _path_and_split(str(source), split)
    checked = check_rows(_records(path, split, preferred))
    rows = checked.rows
    if not rows:
        raise UserError(f"{source}: no rows; the dataset is empty")
    if "choices" in rows[0] and len({row["completion"] for row in rows}) == 1:
        raise UserError(
            f"{source}: one class only: every completion is {rows[0]['completion']!r}; "
            "add rows of other classes"
        )
    for note in checked.notes:
        logger.info("%s: %s", source, note)
    return Examples(_name(path), str(source), checked.kind, _table(checked), tuple(checked.places))


def _table(checked: Checked) -> datasets.Dataset:
    if checked.kind != "messages":
        return datasets.Dataset.from_list(checked.rows)
    # As JSON, for a table would give every message the keys of all others, and every call all arguments.
    columns = [name for name in CHAT_COLUMNS if any(name in row for row in checked.rows)]
    rows = {name: [row.get(name) for row in checked.rows] for name in columns}
    return datasets.Dataset.from_dict(
        rows, features=datasets.Features({name: datasets.Json() for name in columns})
    )


def _path_and_split(source: str, split: str | None) -> tuple[str, str | None]:
    """Takes `folder:test` apart, unless a path of that very name is there; of files only JSON has splits."""
    before, _, after = source.rpartition(":")
    is_split = re.fullmatch(r"\w+", after) and len(before) > 1  # and not the drive of C:data
    if split is None and is_split and not Path(source).exists() and not _has_none(Path(before)):
        return before, after
    return source, split


def _has_none(path: Path) -> bool:
    return path.is_file() and format_of(path) != ".json"


def _name(source: str) -> str:
    path = Path(source)
    if not path.exists():
        return source
    return uncompressed_name(path).stem if path.is_file() else path.resolve().name


def _records(source: str, split: str | None, preferred: tuple[str, ...]) -> Iterator[Record]:
    path = Path(source).expanduser()
    splits = preferred if split is None else (split,)
    if path.is_file():
        return read_file(path, splits)
    if path.is_dir():
        return read_saved(path, splits) if is_saved(path) else read_folder(path, splits, split is not None)
    hub_id = _HUB_ID.fullmatch(source)
    # data/trian beside a folder `data` is a slip of the pen; asking the hub for it takes half a minute.
    if hub_id is None or format_of(path) or path.parent.is_dir():
        raise UserError(f"{source}: no such file or folder (a hub dataset is written owner/name)")
    return read_hub(source, hub_id["id"], hub_id["config"], splits)
