"""Chat templates: compiled and rendered as transformers does it; what they raise is one line."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from depthprune.data.files import read_text
from depthprune.errors import UserError

Message = dict[str, Any]


def load_chat_template(path: str | Path) -> str:
    """Reads a Jinja chat template; raises `UserError` where the file is missing or is no template."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such chat template file")
    template = read_text(path)
    try:
        render_jinja_template([[{"role": "user", "content": "hi"}]], chat_template=template)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{path} line {error.lineno}: not a Jinja template ({error.message})") from error
    except Exception:  # it compiles; whether it takes the user's own rows, those will show
        pass
    return template


def render(
    messages: list[Message],
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    add_generation_prompt: bool,
    tools: list[Any] | None = None,
    options: dict[str, Any] | None = None,
) -> str:
    """The text of a chat.

    Calls of tools are handed over as transformers documents it, with their arguments as objects and without
    contents that are null. Where a template raises on that, or prints Python's own form of the arguments, it
    gets the arguments as JSON text, then empty contents. Raises `UserError` with what the template raised.
    """
    failed: Exception | None = None
    rendered = None
    for form in _forms(messages):
        try:
            text = tokenizer.apply_chat_template(
                form,
                tools=tools,
                chat_template=chat_template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **(options or {}),
            )
        except Exception as error:  # a template may divide by zero, or recurse
            failed = failed or error
            continue
        rendered = rendered or str(text)
        if not any(shown in str(text) for shown in _python_forms(form)):
            return str(text)
    if rendered is not None:
        return rendered
    roles = ", ".join(str(message["role"]) for message in messages)
    raise UserError(
        f"the chat template refuses messages with the roles {roles}: {_reason(failed)}; mend the rows or "
        "give --chat-template FILE"
    ) from failed


def _reason(error: Exception | None) -> str:
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, jinja2.TemplateError) else f"{type(error).__name__}: {text}"


def _forms(messages: list[Message]) -> Iterator[list[Message]]:
    """The ways in which templates want the same messages, the documented one first."""
    present = [{key: value for key, value in message.items() if value is not None} for message in messages]
    called = any("tool_calls" in message for message in present)
    for filled in (False, True):
        if filled and all("content" in message for message in present):
            return
        contents = [{"content": "", **message} for message in present] if filled else present
        yield [_with_arguments(message, as_text=False) for message in contents] if called else contents
        if called:
            yield [_with_arguments(message, as_text=True) for message in contents]


def _with_arguments(message: Message, as_text: bool) -> Message:
    """The message with the arguments of its calls as JSON text, or as objects; OpenAI stores text."""
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        inner = call.get("function", call)
        if "arguments" in inner:
            inner = {**inner, "arguments": _argument(inner["arguments"], as_text)}
        calls.append({**call, "function": inner} if "function" in call else inner)
    return {**message, "tool_calls": calls}


def _argument(value: Any, as_text: bool) -> Any:
    if as_text:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value
    return parsed if isinstance(parsed, dict) else value


def _python_forms(messages: list[Message]) -> Iterator[str]:
    """How Python would print the arguments of the calls, where that is no JSON."""
    for message in messages:
        for call in message.get("tool_calls", ()):
            arguments = call.get("function", call).get("arguments")
            if isinstance(arguments, dict) and str(arguments) != json.dumps(arguments, ensure_ascii=False):
                yield str(arguments)
