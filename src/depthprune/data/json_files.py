"""Rows from JSON: lines, a list, one object, rows under a key, or a list a column."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from depthprune.data.shapes import shape_of
from depthprune.data.splits import FOR_TRAINING, choose_split, named_split
from depthprune.data.streams import lines, read_text
from depthprune.errors import UserError

Record = tuple[str, dict[str, Any]]

_SPACES = re.compile(r"\s*")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_jsonl(path: Path, splits: tuple[str, ...] = FOR_TRAINING) -> Iterator[Record]:
    """One object a line; blank lines are none."""
    for number, line in lines(path):
        if line.strip():
            where = f"{path} line {number}"
            yield where, _as_row(_parsed(line, where), where)


def read_json(path: Path, splits: tuple[str, ...] = FOR_TRAINING) -> Iterator[Record]:
    """The rows of a JSON file, however they are laid out in it.

    Where its keys are names of splits, the first of `splits` that is there is read. Raises `UserError` where
    none or several of its keys hold rows.
    """
    text = read_text(path)
    if not text.strip():
        return
    first = text.lstrip().partition("\n")[0]
    if len(first) < len(text.strip()) and first.startswith("{") and _is_whole(first):
        yield from read_jsonl(path)  # many tools write JSON lines under this suffix
        return
    values = _values(text, str(path))
    if len(values) == 1 and isinstance(values[0], dict):
        yield from _of_object(path, values[0], splits)
        return
    rows = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    yield from _numbered(str(path), rows)


def _of_object(path: Path, found: dict[str, Any], splits: tuple[str, ...]) -> Iterator[Record]:
    """The rows of a file that is one object."""
    if _is_table(found):
        names = list(found)
        yield from _numbered(
            str(path), [dict(zip(names, row, strict=True)) for row in zip(*found.values(), strict=True)]
        )
        return
    try:
        shape_of(str(path), found)
    except UserError:
        key = _key_of_rows(path, found, splits)
        yield from _numbered(f"{path} {key}", found[key])
    else:
        yield str(path), found


def _key_of_rows(path: Path, found: dict[str, Any], splits: tuple[str, ...]) -> str:
    lists = {key: value for key, value in found.items() if isinstance(value, list)}
    keys = [key for key, value in lists.items() if value and isinstance(value[0], dict)]
    if keys and all(named_split(key) for key in keys):
        return choose_split(str(path), keys, splits)
    if len(keys) != 1:
        shown = ", ".join(f"`{key}`" for key in (keys or list(found))[:10]) or "none"
        raise UserError(
            f"{path}: one object with the keys {shown}, of which {'several hold' if keys else 'none holds'} "
            "a list of rows; wanted one object a line, or one list of objects"
        )
    return keys[0]


def _is_table(found: dict[str, Any]) -> bool:
    """Whether an object holds a list for every column; messages are lists of objects, and one row."""
    values = list(found.values())
    if not values or not all(isinstance(value, list) and value for value in values):
        return False
    return len({len(value) for value in values}) == 1 and not any(
        isinstance(value[0], dict) for value in values
    )


def _numbered(where: str, rows: list[Any]) -> Iterator[Record]:
    for number, row in enumerate(rows, start=1):
        yield f"{where} row {number}", _as_row(row, f"{where} row {number}")


def _is_whole(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        # One torn line of JSON lines is told by its number; what does not end here is one object over many.
        return line.rstrip().endswith("}")
    return True


def _values(text: str, where: str) -> list[Any]:
    """The JSON values of a text: one, or several after each other."""
    values = []
    at = _after_spaces(text, 0)
    while at < len(text):
        value, at = _value(text, at, where)
        values.append(value)
        at = _after_spaces(text, at)
    return values


def _after_spaces(text: str, at: int) -> int:
    found = _SPACES.match(text, at)
    return found.end() if found else at


def _value(text: str, at: int, where: str) -> tuple[Any, int]:
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{where}: {_fault(error)}") from error
    _refuse_half_characters(text, value, where)
    return value, end


def _parsed(line: str, where: str) -> Any:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {_fault(error)}") from error
    _refuse_half_characters(line, value, where)
    return value


def _fault(error: Exception) -> str:
    place = ""
    if isinstance(error, json.JSONDecodeError):
        place = f"{error.msg}, line {error.lineno} column {error.colno} of the text"
    reason = place or str(error) or "too deep"
    return f"not valid JSON ({reason}); wanted one object a line, or one list of objects"


def _refuse_half_characters(text: str, value: Any, where: str) -> None:
    """An escape may stand for half a character, which no tokenizer takes."""
    if not _HALF.search(text):
        return
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: holds a lone surrogate escape; remove it or write the character"
        ) from error


def _as_row(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}: of type {type(value).__name__}, not an object with named columns")
    return value
