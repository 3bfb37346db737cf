"""What a row must look like: `prompt`+`completion` (optionally `choices`), `messages`, or `text`."""

import json
from collections.abc import Iterable
from typing import Any, Literal

from depthprune.data.files import Record
from depthprune.errors import UserError

Kind = Literal["messages", "prompt-completion", "text"]

COLUMNS = ("prompt", "completion", "choices", "messages", "text")
_WANTED = "wanted: `prompt` and `completion` (optionally `choices`), or `messages`, or `text`"


def check_rows(records: Iterable[Record]) -> tuple[Kind, list[dict[str, Any]]]:
    """The kind of the rows, and the rows with exactly the columns of that kind.

    The first row decides the kind. `messages` become `prompt` (the turns before the last assistant turn) and
    `completion` (that turn's content). Blank texts are passed over: corpora on the hub hold many.
    Raises `UserError` for the first row that is not as it should be.
    """
    kind: Kind | None = None
    has_choices = False
    rows = []
    for where, row in records:
        if kind is None:
            kind = _kind(where, row)
            has_choices = kind == "prompt-completion" and row.get("choices") not in (None, "")
        if kind == "text" and isinstance(row.get("text"), str) and not row["text"].strip():
            continue
        rows.append(_check_row(where, row, kind, has_choices))
    return kind or "text", rows


def _kind(where: str, row: dict[str, Any]) -> Kind:
    if "prompt" in row and "completion" in row:
        return "prompt-completion"
    if "messages" in row:
        return "messages"
    if "text" in row:
        return "text"
    raise UserError(f"{where}: columns {_named(row)}; {_WANTED}")


def _check_row(where: str, row: dict[str, Any], kind: Kind, has_choices: bool) -> dict[str, Any]:
    if kind == "text":
        return {"text": _string(where, row, "text")}
    if kind == "messages":
        return _split_messages(where, row)
    checked: dict[str, Any] = {column: _string(where, row, column) for column in ("prompt", "completion")}
    if (row.get("choices") not in (None, "")) != has_choices:
        raise UserError(
            f"{where}: `choices` must stand in every row or in none, and other rows differ from this"
        )
    if has_choices:
        checked["choices"] = _choices(where, row, checked["completion"])
    return checked


def _string(where: str, row: dict[str, Any], column: str) -> str:
    if column not in row:
        raise UserError(
            f"{where}: no column `{column}` (columns {_named(row)}); {_WANTED}, the same in every row"
        )
    value = row[column]
    if not isinstance(value, str):
        raise UserError(f"{where}: `{column}` must be a string and is {_type(value)}")
    if not value.strip():
        raise UserError(f"{where}: `{column}` is empty; remove the row or fill it")
    return value


def _choices(where: str, row: dict[str, Any], completion: str) -> list[str]:
    choices = row["choices"]
    if isinstance(choices, str):  # a CSV field can hold a list only as JSON
        try:
            choices = json.loads(choices)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where}: `choices` must be a list of strings, in CSV written as JSON"
            ) from error
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
        raise UserError(f"{where}: `choices` must be a list of non-empty strings")
    if len(choices) < 2:
        raise UserError(f"{where}: {len(choices)} in `choices`; wanted two or more")
    if completion not in choices:
        near = next((c for c in choices if c.strip() == completion.strip()), None)
        hint = f"; {near!r} differs in its spaces" if near else ""
        raise UserError(f"{where}: completion {completion!r} is not among the choices {choices!r}{hint}")
    return choices


def _split_messages(where: str, row: dict[str, Any]) -> dict[str, Any]:
    if "messages" not in row:
        raise UserError(
            f"{where}: no column `messages` (columns {_named(row)}); {_WANTED}, the same in every row"
        )
    messages = row["messages"]
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: `messages` must be a list, in CSV written as JSON") from error
    if not isinstance(messages, list):
        raise UserError(f"{where}: `messages` must be a list of role and content, and is {_type(messages)}")
    turns = [_turn(f"{where}, message {i}", message) for i, message in enumerate(messages, start=1)]
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    if not answers:
        raise UserError(f"{where}: `messages` has no assistant turn to learn from; add one or remove the row")
    last = answers[-1]
    if last == 0:
        raise UserError(
            f"{where}: `messages` has no turn before the assistant's; add the user's or use `text`"
        )
    if not turns[last]["content"].strip():
        raise UserError(f"{where}: the last assistant turn is empty; remove the row or fill it")
    return {"prompt": turns[:last], "completion": turns[last]["content"]}


def _turn(where: str, message: Any) -> dict[str, str]:
    if not isinstance(message, dict) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
        raise UserError(f"{where}: must be an object whose `role` and `content` are strings")
    return {"role": message["role"], "content": message["content"]}


def _named(row: dict[str, Any]) -> str:
    return ", ".join(f"`{column}`" for column in row) or "none"


def _type(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"
