"""A dataset as the rest of the package knows it, and where it comes from: a file, a folder, or the hub."""

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import datasets

from depthprune.data.files import READERS, Record, read_file, read_folder, without_nulls
from depthprune.data.rows import Checked, Kind, check_rows
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
        return replace(self, rows=self.rows.select(indices), places=places, rendered={})

    def place(self, i: int) -> str:
        """Where row `i` stands."""
        return self.places[i] if self.places else f"{self.source} row {i + 1}"


def load_examples(source: str | Path, split: str | None = None) -> Examples:
    """Reads and checks every row of `source`.

    `source`: a `.jsonl`, `.json`, `.csv`, `.parquet` or `.txt` file (a text file is one document); a folder
    of these or of `Dataset.save_to_disk`; or a hub id, `owner/name` or `owner/name@config`. A folder or hub
    id may end in `:split`; without it, and without `split`, its "train" split is read.

    Nothing is written beside the user's files, and they are read anew at each call. Raises `UserError` for a
    missing or unreadable source, for the first malformed row, for no rows, and for `choices` with one class.
    """
    path, split = _path_and_split(str(source), split)
    checked = check_rows(_records(path, split))
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
    """Takes `folder:test` apart, unless a path of that very name is there; files have no splits."""
    before, _, after = source.rpartition(":")
    is_split = re.fullmatch(r"\w+", after) and len(before) > 1  # and not the drive of C:data
    if split is None and is_split and not Path(source).exists() and not Path(before).is_file():
        return before, after
    return source, split


def _name(source: str) -> str:
    path = Path(source)
    if not path.exists():
        return source
    return path.stem if path.is_file() else path.resolve().name


def _records(source: str, split: str | None) -> Iterator[Record]:
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix.lower() not in READERS:
            raise UserError(f"{source}: unknown kind of file; wanted {', '.join(READERS)}")
        return read_file(path)
    if path.is_dir():
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            return _numbered(source, _pick(source, datasets.load_from_disk(str(path)), split))
        return read_folder(path, split)
    hub_id = _HUB_ID.fullmatch(source)
    # data/trian beside a folder `data` is a slip of the pen; asking the hub for it takes half a minute.
    if hub_id is None or path.suffix.lower() in READERS or path.parent.is_dir():
        raise UserError(f"{source}: no such file or folder (a hub dataset is written owner/name)")
    return _numbered(source, _load_from_hub(source, hub_id["id"], hub_id["config"], split))


def _pick(
    source: str, loaded: datasets.Dataset | datasets.DatasetDict, split: str | None
) -> datasets.Dataset:
    if isinstance(loaded, datasets.Dataset):
        return loaded
    if (split or "train") not in loaded:
        raise UserError(
            f"{source}: no split {split or 'train'!r}; there: {', '.join(loaded)}; write {source}:SPLIT"
        )
    return loaded[split or "train"]


def _load_from_hub(source: str, hub_id: str, config: str | None, split: str | None) -> datasets.Dataset:
    hub_logger = logging.getLogger("huggingface_hub")
    level = hub_logger.level
    hub_logger.setLevel(logging.ERROR)  # it would tell of each of its attempts
    try:
        loaded = datasets.load_dataset(hub_id, config)
    except Exception as error:  # the hub client raises errors of half a dozen unrelated classes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{source}: no such file or folder here, and it could not be loaded from the hub: {reason}"
        ) from error
    finally:
        hub_logger.setLevel(level)
    return _pick(source, loaded, split)


def _numbered(source: str, dataset: datasets.Dataset) -> Iterator[Record]:
    number = 0
    for table in dataset.with_format("arrow").iter(1000):  # not decoded: no image is ever opened
        for row in table.to_pylist():
            number += 1
            yield f"{source} row {number}", without_nulls(row)
