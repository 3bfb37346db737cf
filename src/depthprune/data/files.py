"""Reading rows from one file: JSONL, JSON, CSV, TSV, Parquet, Arrow and plain text, compressed or not.

The files are read straight into memory, not through `datasets`' builders: those copy every file into a cache,
and give a row's number nowhere in their errors.
"""

import csv
import io
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from depthprune.data.json_files import Record, read_json, read_jsonl
from depthprune.data.splits import FOR_TRAINING
from depthprune.data.streams import COMPRESSED, opened, read_text, uncompressed_name
from depthprune.errors import UserError

__all__ = ["Record", "format_of", "rank", "read_file", "read_text", "wanted_formats", "without_nulls"]

_LONGEST_CSV_FIELD = 2**31 - 1  # Python's own limit of 131 072 characters is less than one long article
_BATCH = 1000  # rows of a typed table that become Python objects at a time


def read_file(path: Path, splits: tuple[str, ...] = FOR_TRAINING) -> Iterator[Record]:
    """The rows of one file, in order; raises `UserError` where it cannot be read as what its suffix says.

    `splits` matters for a JSON file whose keys are names of splits.
    """
    form = format_of(path)
    if form is None:
        raise UserError(f"{path}: unknown kind of file; wanted {wanted_formats()}")
    return _READERS[form](path, splits)


def format_of(path: Path) -> str | None:
    """The suffix that says how a file is read, its compression left aside; None where we do not read it."""
    suffix = uncompressed_name(path).suffix.lower()
    return suffix if suffix in _READERS else None


def rank(path: Path) -> tuple[int, bool]:
    """The place of a file's format in our list, plain files before compressed ones."""
    return list(_READERS).index(format_of(path) or ".txt"), path.suffix.lower() in COMPRESSED


def wanted_formats() -> str:
    """The suffixes of files that are read, for messages."""
    return f"{', '.join(_READERS)}, or one of these with {', '.join(COMPRESSED)}"


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a typed table without the nulls inside its columns: a table gives every object every key."""
    return {name: _pruned(value) for name, value in row.items()}


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _pruned(inner) for name, inner in value.items() if inner is not None}
    return [_pruned(inner) for inner in value] if isinstance(value, list) else value


def _read_txt(path: Path, splits: tuple[str, ...]) -> Iterator[Record]:
    yield str(path), {"text": read_text(path).replace("\r\n", "\n")}


def _read_csv(path: Path, splits: tuple[str, ...], delimiter: str) -> Iterator[Record]:
    csv.field_size_limit(_LONGEST_CSV_FIELD)
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True, delimiter=delimiter)
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


def _read_parquet(path: Path, splits: tuple[str, ...]) -> Iterator[Record]:
    with opened(path) as stream:
        try:
            batches = pq.ParquetFile(stream).iter_batches(_BATCH)
            yield from _typed_rows(path, batches)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a readable Parquet file; write it anew") from error


def _read_arrow(path: Path, splits: tuple[str, ...]) -> Iterator[Record]:
    with opened(path) as stream:
        content = pa.py_buffer(stream.read())
        try:
            try:
                batches = iter(pa.ipc.open_stream(content))
            except pa.ArrowInvalid:  # the other one of Arrow's two formats
                table = pa.ipc.open_file(content).read_all()
                batches = iter(table.to_batches())
            yield from _typed_rows(path, batches)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path}: not a readable Arrow file; write it anew") from error


def _typed_rows(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[Record]:
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield f"{path} row {number}", without_nulls(row)


_READERS: dict[str, Callable[[Path, tuple[str, ...]], Iterator[Record]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": partial(_read_csv, delimiter=","),
    ".tsv": partial(_read_csv, delimiter="\t"),
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
    ".txt": _read_txt,
}
