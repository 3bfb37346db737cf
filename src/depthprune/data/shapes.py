"""The ways in which people store rows, each with its columns and how a row of it is read."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from depthprune.data.turns import (
    Message,
    from_json,
    messages_of,
    options_of,
    refuse_media,
    tools_of,
    type_of,
)
from depthprune.errors import UserError

Kind = Literal["messages", "prompt-completion", "text"]
Row = dict[str, Any]

_CHATS = ("messages", "conversations", "conversation")
_TEXTS = ("content", "raw_content", "document", "article")
_BESIDE = ("tools", "functions", "system", "chat_template_kwargs")
_INPUTS, _OUTPUTS = ("input", "context"), ("output", "response")
_WANTED = "wanted: `prompt` and `completion` (optionally `choices`), or `messages`, or `text`"


@dataclass(frozen=True)
class Shape:
    """One way to store rows.

    columns: those that are read.
    read: (where, row) → the columns of the kind; of a chat also `cut`, the number of messages left off.
    note: what is to be said about how the rows are read.
    """

    kind: Kind
    columns: tuple[str, ...]
    read: Callable[[str, Row], Row]
    note: str = ""


def shape_of(where: str, row: Row) -> Shape:
    """The shape of a dataset whose first row this is; raises `UserError` where it is none that we know."""
    if "prompt" in row and "completion" in row:
        if _is_chat(row["prompt"]) or _is_chat(row["completion"]):
            return Shape("messages", ("prompt", "completion", *_BESIDE), partial(_pair, "completion"))
        return Shape("prompt-completion", ("prompt", "completion", "choices"), _prompt_completion)
    if column := next((name for name in _CHATS if name in row), None):
        return Shape("messages", (column, *_BESIDE), partial(_chat, column))
    if "chosen" in row:
        return _preference(row)
    if "instruction" in row and (output := next((name for name in _OUTPUTS if name in row), None)):
        given = next((name for name in _INPUTS if name in row), "input")
        note = "read as Alpaca: the prompt is `### Instruction:`, `### Input:`, `### Response:`"
        columns = ("instruction", given, output)
        return Shape("prompt-completion", columns, partial(_alpaca, given, output), note)
    if "text" in row:
        return Shape("text", ("text",), partial(_text, "text"))
    strings = [name for name, value in row.items() if isinstance(value, str)]
    other = next(
        (name for name in _TEXTS if name in strings), strings[0] if len(row) == len(strings) == 1 else ""
    )
    if other and "role" not in row:
        return Shape("text", (other,), partial(_text, other), f"`{other}` is read as the text")
    raise UserError(f"{where}: columns {_named(row)}; {_WANTED}")


def _preference(row: Row) -> Shape:
    note = "trains on `chosen`; `rejected` is not used"
    if not _is_chat(row["chosen"]):
        return Shape(
            "prompt-completion", ("prompt", "chosen"), partial(_prompt_completion, answer="chosen"), note
        )
    return Shape("messages", ("prompt", "chosen", *_BESIDE), partial(_pair, "chosen"), note)


def _is_chat(value: Any) -> bool:
    """Whether a column holds messages, as a list or as its JSON text."""
    return isinstance(value, list) or (
        isinstance(value, str) and value.startswith(('[{"role"', '[{"content"'))
    )


def _text(column: str, where: str, row: Row) -> Row:
    return {"text": _string(where, row, column)}


def _prompt_completion(where: str, row: Row, answer: str = "completion") -> Row:
    read: Row = {"prompt": _string(where, row, "prompt"), "completion": _string(where, row, answer)}
    if row.get("choices") not in (None, ""):
        read["choices"] = _choices(where, row, read["completion"])
    return read


def _alpaca(given: str, output: str, where: str, row: Row) -> Row:
    for column in ("history", "system"):
        if row.get(column) not in (None, "", []):
            raise UserError(
                f"{where}: Alpaca's prompt has no place for its `{column}`; write the row as `messages`"
            )
    instruction, completion = _string(where, row, "instruction"), _string(where, row, output)
    if row.get(given) not in (None, ""):
        instruction += f"\n\n### Input:\n{_string(where, row, given)}"
        task = (
            "Below is an instruction that describes a task, paired with an input that provides further "
            "context. "
        )
    else:
        task = "Below is an instruction that describes a task. "
    opening = f"{task}Write a response that appropriately completes the request."
    return {
        "prompt": f"{opening}\n\n### Instruction:\n{instruction}\n\n### Response:\n",
        "completion": completion,
    }


def _chat(column: str, where: str, row: Row) -> Row:
    if column not in row:
        raise UserError(
            f"{where}: no column `{column}` (columns {_named(row)}); {_WANTED}, the same in every row"
        )
    messages = _with_system(where, row, messages_of(where, column, row[column]))
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers:
        raise UserError(f"{where}: `{column}` has no assistant turn to learn from; add one or remove the row")
    last = answers[-1]
    if last == 0:
        raise UserError(
            f"{where}: `{column}` has no turn before the assistant's; add the user's or use `text`"
        )
    return _answered(where, row, messages[:last], messages[last:])


def _pair(answer: str, where: str, row: Row) -> Row:
    """A prompt and its completion as messages, one of them perhaps as text; `chosen` may hold both."""
    for column in ("prompt", answer) if answer == "completion" else (answer,):
        if column not in row:
            raise UserError(f"{where}: no column `{column}` (columns {_named(row)})")
    completion = _messages(where, row, answer, "assistant")
    if completion and completion[0]["role"] != "assistant" and answer == "chosen":
        return _chat(answer, where, row)
    prompt = _with_system(where, row, _messages(where, row, "prompt", "user"))
    if not prompt:
        raise UserError(f"{where}: `prompt` is empty; remove the row or fill it")
    if not completion or completion[0]["role"] != "assistant":
        raise UserError(f"{where}: `{answer}` must begin with an assistant turn")
    return _answered(where, row, prompt, completion)


def _messages(where: str, row: Row, column: str, role: str) -> list[Message]:
    if isinstance(row.get(column), str) and not _is_chat(row[column]):
        return [{"role": role, "content": _string(where, row, column)}]
    return messages_of(where, column, row.get(column))


def _with_system(where: str, row: Row, messages: list[Message]) -> list[Message]:
    """The messages after the row's own `system` text, where it has one."""
    system = row.get("system")
    if system in (None, ""):
        return messages
    if messages and messages[0]["role"] == "system":
        raise UserError(f"{where}: a `system` column and a system turn; keep one of them")
    return [{"role": "system", "content": _string(where, row, "system")}, *messages]


def _answered(where: str, row: Row, prompt: list[Message], completion: list[Message]) -> Row:
    refuse_media(where, row)
    last = max(i for i, message in enumerate(completion) if message["role"] == "assistant")
    answer = completion[last]
    if not (answer.get("content") or "").strip() and not answer.get("tool_calls"):
        raise UserError(f"{where}: the last assistant turn is empty; remove the row or fill it")
    read: Row = {"prompt": prompt, "completion": completion[: last + 1], "cut": len(completion) - 1 - last}
    if tools := tools_of(where, row):
        read["tools"] = tools
    if options := options_of(where, row):
        read["chat_template_kwargs"] = options
    return read


def _string(where: str, row: Row, column: str) -> str:
    if column not in row:
        raise UserError(
            f"{where}: no column `{column}` (columns {_named(row)}); {_WANTED}, the same in every row"
        )
    value = row[column]
    if not isinstance(value, str):
        raise UserError(f"{where}: `{column}` must be a string and is {type_of(value)}")
    if not value.strip():
        raise UserError(f"{where}: `{column}` is empty; remove the row or fill it")
    return value


def _choices(where: str, row: Row, completion: str) -> list[str]:
    choices = row["choices"]
    if isinstance(choices, str):  # a CSV field can hold a list only as JSON
        choices = from_json(where, "choices", choices)
    if not isinstance(choices, list) or not all(isinstance(choice, str) and choice for choice in choices):
        raise UserError(f"{where}: `choices` must be a list of non-empty strings")
    if len(choices) < 2:
        raise UserError(f"{where}: {len(choices)} in `choices`; wanted two or more")
    if completion not in choices:
        near = next((c for c in choices if c.strip() == completion.strip()), None)
        hint = f"; {near!r} differs in its spaces" if near else ""
        raise UserError(f"{where}: completion {completion!r} is not among the choices {choices!r}{hint}")
    return choices


def _named(row: Row) -> str:
    return ", ".join(f"`{column}`" for column in row) or "none"
