"""Messages as people store them (OpenAI's, ShareGPT's, Alpaca's) → messages as chat templates read them."""

import json
from typing import Any

from depthprune.errors import UserError

Message = dict[str, Any]

# ShareGPT's own, and what LLaMA-Factory and its like added.
_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "function_call": "call",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}
_MEDIA = ("images", "image", "audios", "audio", "videos", "video")


def messages_of(where: str, column: str, value: Any) -> list[Message]:
    """The checked messages of a column: a list of objects, or the same as JSON text.

    Objects have `role` and whatever else the template reads, or ShareGPT's `from` and `value`. Parts of text
    are joined. Raises `UserError` for anything else, images and sound among it.
    """
    value = from_json(where, column, value)
    if not isinstance(value, list):
        raise UserError(f"{where}: `{column}` must be a list of role and content, and is {type_of(value)}")
    return [_turn(f"{where}, message {i}", message) for i, message in enumerate(value, start=1)]


def tools_of(where: str, row: dict[str, Any]) -> list[Any] | None:
    """The tools of a row: its `tools`, or OpenAI's older `functions`; a list, or the same as JSON text.

    A bare function is wrapped as `{"type": "function", "function": …}`, which templates read.
    """
    column = "tools" if row.get("tools") not in (None, "", []) else "functions"
    if row.get(column) in (None, "", []):
        return None
    tools = from_json(where, column, row[column])
    if isinstance(tools, dict):
        tools = [tools]
    tools = [from_json(where, column, tool) for tool in tools] if isinstance(tools, list) else tools
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise UserError(f"{where}: `{column}` must be a list of JSON schemas, one object a tool")
    bare = [
        isinstance(tool.get("name"), str) and "function" not in tool and "type" not in tool for tool in tools
    ]
    return [
        {"type": "function", "function": tool} if is_bare else tool
        for tool, is_bare in zip(tools, bare, strict=True)
    ] or None


def options_of(where: str, row: dict[str, Any]) -> dict[str, Any] | None:
    """The row's `chat_template_kwargs`, an object, or the same as JSON text."""
    value = row.get("chat_template_kwargs")
    if value in (None, "", {}):
        return None
    options = from_json(where, "chat_template_kwargs", value)
    if not isinstance(options, dict):
        raise UserError(f"{where}: `chat_template_kwargs` must be an object, and is {type_of(options)}")
    return options or None


def refuse_media(where: str, row: dict[str, Any]) -> None:
    """Raises `UserError` for a row with images, sound or films beside its text."""
    for column in _MEDIA:
        if row.get(column) not in (None, "", [], {}):
            raise UserError(f"{where}: has `{column}`, and only text is read; remove the row")


def from_json(where: str, column: str, value: Any) -> Any:
    """`value`, or what it holds where it is JSON text, as CSV and many Parquet files have it."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise UserError(f"{where}: `{column}` must be a list, in CSV written as JSON") from error


def type_of(value: Any) -> str:
    """The value's type, as an error names it."""
    return "null" if value is None else f"of type {type(value).__name__}"


def _turn(where: str, message: Any) -> Message:
    if isinstance(message, dict) and "from" in message and "role" not in message:
        message = _from_sharegpt(where, message)
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise UserError(f"{where}: must be an object with `role` and `content`, or `from` and `value`")
    message = {**message}
    if (calls := message.get("tool_calls")) not in (None, "", []):
        message["tool_calls"] = _calls(where, calls)
    elif isinstance(called := message.pop("function_call", None), dict):  # OpenAI's before there were tools
        message["tool_calls"] = [{"type": "function", "function": called}]
    content = message.get("content")
    if isinstance(content, list):
        message["content"] = "".join(_part(where, part) for part in content)
    elif content is None and not message.get("tool_calls"):
        raise UserError(f"{where}: its `content` is missing or null, and it calls no tool")
    elif content is not None and not isinstance(content, str):
        raise UserError(f"{where}: its `content` must be a string and is {type_of(content)}")
    return message


def _calls(where: str, calls: Any) -> list[Any]:
    calls = from_json(where, "tool_calls", calls)
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise UserError(f"{where}: `tool_calls` must be a list of objects")
    for call in calls:
        inner = call.get("function", call)
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise UserError(f"{where}: a call in `tool_calls` has no `function` with a `name`")
    return calls


def _part(where: str, part: Any) -> str:
    """A part of a content that is a list; all but text is refused by its name."""
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else type_of(part)
    if isinstance(part, dict) and kind in ("text", "input_text", "output_text", "refusal"):
        text = part.get("text", part.get("refusal"))
        if isinstance(text, str):
            return text
    raise UserError(f"{where}: its `content` has a part of the type {kind!r}, and only text is read")


def _from_sharegpt(where: str, message: dict[str, Any]) -> Message:
    speaker, value = message["from"], message.get("value")
    role = _SPEAKERS.get(speaker.lower()) if isinstance(speaker, str) else None
    if role is None:
        raise UserError(f"{where}: from {speaker!r}; wanted one of {', '.join(_SPEAKERS)}")
    rest = {key: kept for key, kept in message.items() if key not in ("from", "value")}
    if role != "call":
        return {"role": role, "content": value, **rest}
    called = from_json(where, "value", value)
    called = called if isinstance(called, list) else [called]
    if not all(isinstance(call, dict) and "name" in call for call in called):
        raise UserError(f"{where}: the value of a function_call must be JSON with `name` and `arguments`")
    calls = [{"type": "function", "function": call} for call in called]
    return {"role": "assistant", "content": None, "tool_calls": calls, **rest}
