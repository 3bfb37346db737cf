"""Reading rows from files: JSONL, JSON, CSV, Parquet and plain text.

The files are read straight into memory, not through `datasets`' builders: those copy every file into a cache,
and give a row's number nowhere in their errors.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from depthprune.errors import UserError

# Where a row stands ("data/train.jsonl line 3"), for messages, and the row.
Record = tuple[str, dict[str, Any]]

_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
}
_LONGEST_CSV_FIELD = 2**31 - 1  # Python's own limit of 131 072 characters is less than one long article


def read_file(path: Path) -> Iterator[Record]:
    """The rows of one file, in order; raises `UserError` where it cannot be read as what its suffix says."""
    return READERS[path.suffix.lower()](path)


def read_folder(folder: Path, split: str | None) -> Iterator[Record]:
    """The rows of the data files in `folder`, in the order of their names.

    Where file names speak of splits (`train.jsonl`, `test-00000.parquet`), only the files of `split`
    (default "train") are read, so that a test set beside the training set never leaks into it.
    """
    files = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in READERS]
    if not files:
        raise UserError(f"{folder}: no data file in this folder; wanted {', '.join(READERS)}")
    named = {path: split_of(path) for path in files}
    if split is not None or any(named.values()):
        wanted = split or "train"
        there = sorted({name for name in named.values() if name})
        files = [path for path in files if named[path] == _SPLIT_WORDS.get(wanted, wanted)]
        if not files:
            raise UserError(
                f"{folder}: no file of the split {wanted!r} (there: {', '.join(there) or 'no split names'}); "
                f"name the file itself, or a split as in {folder}:{there[0] if there else 'test'}"
            )
    for path in files:
        yield from read_file(path)


def split_of(path: Path) -> str | None:
    """The split that a file's name speaks of, or None."""
    for word in re.split(r"[^a-z]+", path.stem.lower()):
        if word in _SPLIT_WORDS:
            return _SPLIT_WORDS[word]
    return None


def read_text(path: Path) -> str:
    """A UTF-8 file's text, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error


def _read_txt(path: Path) -> Iterator[Record]:
    yield str(path), {"text": read_text(path)}


def _read_jsonl(path: Path) -> Iterator[Record]:
    # Split at "\n" alone: str.splitlines also cuts at U+2028 and others that JSON allows inside a string.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path} line {number}"
            yield where, _as_row(_parse_json(line, where), where)


def _read_json(path: Path) -> Iterator[Record]:
    text = read_text(path)
    if not text.lstrip().startswith("["):
        yield from _read_jsonl(path)  # many tools write JSON lines under this suffix
        return
    for number, row in enumerate(_parse_json(text, str(path)), start=1):
        where = f"{path} row {number}"
        yield where, _as_row(row, where)


def _parse_json(text: str, where: str) -> Any:
    try:
        value = json.loads(text)
        if "\\u" in text:  # an escape may stand for half a character, which no tokenizer takes
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: not valid JSON ({error.msg}, line {error.lineno} column {error.colno} of the text); "
            "wanted one object a line, or one list of objects"
        ) from error
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: holds a lone surrogate escape; remove it or write the character"
        ) from error
    return value


def _as_row(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: of type {type(value).__name__}, not an object with named columns")
    return value


def _read_csv(path: Path) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_CSV_FIELD)
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for number, row in enumerate(reader, start=1):
            where = f"{path} row {number}"
            if None in row or None in row.values():
                raise UserError(
                    f"{where}: not as many fields as the header has; quote fields that hold commas"
                )
            yield where, row
    except csv.Error as error:
        raise UserError(f"{path} line {reader.line_num}: not valid CSV ({error})") from error


def _read_parquet(path: Path) -> Iterator[Record]:
    try:
        rows = pq.ParquetFile(path).read().to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file; write it anew") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path} row {number}", without_nulls(row)


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a typed table without the nulls inside its columns: a table gives every object every key."""
    return {name: _pruned(value) for name, value in row.items()}


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _pruned(inner) for name, inner in value.items() if inner is not None}
    return [_pruned(inner) for inner in value] if isinstance(value, list) else value


READERS: dict[str, Callable[[Path], Iterator[Record]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
}
