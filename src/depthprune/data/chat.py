"""Chats: from the messages of a row to the text before the answer, and the answer's."""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from depthprune.data.examples import Examples
from depthprune.data.template import Message, load_chat_template, render
from depthprune.errors import UserError

__all__ = ["Chat", "chats", "load_chat_template", "render_chat", "render_chats"]

logger = logging.getLogger("depthprune")

_TRIED = 100
"""Rows in which a key must make no difference before it is said that the template never reads it."""
_OPTION = "chat_template_kwargs."
_MARK = "9THEANSWER9"  # stands for an answer, to see what a template writes behind one


@dataclass(frozen=True)
class Chat:
    """One row of `messages`: what is asked, the answer to learn, and what else its template is given."""

    prompt: list[Message]
    completion: list[Message]
    tools: list[Any] | None = None
    options: dict[str, Any] | None = None
    """The row's `chat_template_kwargs`."""


def chats(examples: Examples) -> Iterator[Chat]:
    """The rows of a dataset of the kind "messages"."""
    columns = examples.rows[:]
    absent = [None] * len(examples.rows)
    for prompt, completion, tools, options in zip(
        columns["prompt"],
        columns["completion"],
        columns.get("tools", absent),
        columns.get("chat_template_kwargs", absent),
        strict=True,
    ):
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        yield Chat(prompt, completion, tools, options)


def render_chats(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, chat_template: str | None
) -> list[tuple[str, str]]:
    """(prompt, completion) of each row, as `render_chat` gives them; rendered once for each template.

    What a reader of the rows would not expect is said once: keys that the template never reads, and answers
    that it writes otherwise than it opens them. Raises `UserError` that names the row.
    """
    key = (chat_template, json.dumps(tokenizer.chat_template))
    if key not in examples.rendered:
        examples.rendered[key] = _render_all(examples, tokenizer, chat_template)
    return examples.rendered[key]


def _render_all(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, chat_template: str | None
) -> list[tuple[str, str]]:
    if chat_template is None and tokenizer.chat_template is None:
        raise UserError(
            f"{examples.source}: the tokenizer has no chat template and the rows are `messages`; give "
            "--chat-template FILE"
        )
    pairs, opened_otherwise = [], 0
    for i, chat in enumerate(chats(examples)):
        try:
            prompt, completion, opened = render_chat(chat, tokenizer, chat_template)
        except UserError as error:
            raise UserError(f"{examples.place(i)}: {error}") from error
        pairs.append((prompt, completion))
        opened_otherwise += not opened
    if opened_otherwise:
        logger.warning(
            "%s: in %d of %d rows the chat template opens the answer otherwise where it asks for one (…%r) "
            "than where it writes a whole chat: what is learned is the answer after the former",
            examples.source,
            opened_otherwise,
            len(pairs),
            pairs[0][0][-20:],
        )
    for name, count in _unread(examples, tokenizer, chat_template).items():
        logger.warning(
            "%s: the chat template never reads `%s`, which %d rows have: the model does not see it",
            examples.source,
            name,
            count,
        )
    return pairs


def render_chat(
    chat: Chat, tokenizer: PreTrainedTokenizerBase, chat_template: str | None
) -> tuple[str, str, bool]:
    """(the prompt with the opening of the assistant's turn, the answer with its closing, True).

    Some templates open the turn otherwise when asked for an answer than when they write a whole chat (with
    `<think>`, mostly): the answer is then its own content and closing behind the opening that generation will
    see, and the last is False. Raises `UserError` where an answer of another kind is cut off so, or where the
    template writes nothing of a call.
    """
    asked = _text(chat, chat.prompt, tokenizer, chat_template, add_generation_prompt=True)
    whole = _text(chat, [*chat.prompt, *chat.completion], tokenizer, chat_template)
    opened = whole.startswith(asked)
    completion = (
        whole.removeprefix(asked)
        if opened
        else _behind_its_opening(chat, asked, whole, tokenizer, chat_template)
    )
    for call in (call for message in chat.completion for call in message.get("tool_calls") or ()):
        if (name := str(call.get("function", call).get("name"))) not in completion:
            raise UserError(
                f"the chat template writes nothing of the answer's call of {name!r}; give --chat-template "
                "FILE that writes calls of tools"
            )
    if not completion.replace(str(tokenizer.eos_token), "").strip():
        raise UserError("the chat template writes nothing of the answer; give --chat-template FILE")
    return asked, completion, opened


def _text(
    chat: Chat,
    messages: list[Message],
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    add_generation_prompt: bool = False,
) -> str:
    return render(messages, tokenizer, chat_template, add_generation_prompt, chat.tools, chat.options)


def _behind_its_opening(
    chat: Chat, asked: str, whole: str, tokenizer: PreTrainedTokenizerBase, chat_template: str | None
) -> str:
    """The content of an answer, less what the prompt already says of it (`<think>`), and its closing."""
    answer = chat.completion[-1]
    content = answer.get("content")
    if len(chat.completion) > 1 or answer.get("tool_calls") or not content:
        raise UserError(
            f"the chat template's prompt, which ends in {asked[-20:]!r}, does not begin its whole chat: it "
            "is unclear where the answer's calls begin; give --chat-template FILE"
        )
    marked = Chat(chat.prompt, [{**answer, "content": _MARK}], chat.tools, chat.options)
    _, mark, closing = _text(
        marked, [*marked.prompt, *marked.completion], tokenizer, chat_template
    ).rpartition(_MARK)
    if not mark:
        return ""
    alike = next((i for i, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b), len(whole))
    said = asked[alike:].strip()
    return (
        content.removeprefix(said).lstrip() + closing
        if said and content.startswith(said)
        else content + closing
    )


def _unread(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, chat_template: str | None
) -> dict[str, int]:
    """The keys of rows and messages that the template makes nothing of, and how many rows have them."""
    counts: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    read = {"role", "content"}
    for chat in chats(examples):
        keys = _keys(chat)
        counts.update(keys)
        for key in keys - read:
            if tried[key] < _TRIED:
                tried[key] += 1
                if _is_read(key, chat, tokenizer, chat_template):
                    read.add(key)
    return {key: counts[key] for key in sorted(counts.keys() - read)}


def _keys(chat: Chat) -> set[str]:
    """What a row gives its template, null and empty values left aside."""
    messages = [*chat.prompt, *chat.completion]
    keys = {key for message in messages for key, value in message.items() if value not in (None, "", [], {})}
    return keys | ({"tools"} if chat.tools else set()) | {f"{_OPTION}{k}" for k in chat.options or ()}


def _is_read(key: str, chat: Chat, tokenizer: PreTrainedTokenizerBase, chat_template: str | None) -> bool:
    """Whether the text is another one without the key, or with other values of an option."""
    try:
        texts = {
            _text(one, [*one.prompt, *one.completion], tokenizer, chat_template)
            for one in (chat, *_changed(chat, key))
        }
    except UserError:  # it cannot do without
        return True
    return len(texts) > 1


def _changed(chat: Chat, key: str) -> Iterator[Chat]:
    _, is_option, option = key.partition(_OPTION)
    if is_option:
        for value in (True, False, "other"):  # the row's own may be what the template takes anyway
            yield replace(chat, options={**(chat.options or {}), option: value})
    elif key == "tools":
        yield replace(chat, tools=None)
    else:
        prompt, completion = (
            [{name: value for name, value in message.items() if name != key} for message in messages]
            for messages in (chat.prompt, chat.completion)
        )
        yield replace(chat, prompt=prompt, completion=completion)
