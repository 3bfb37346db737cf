"""Chat templates: from a list of messages to the text that the model sees."""

from pathlib import Path
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

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
        jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(template)
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"{path} line {error.lineno}: not a Jinja template ({error.message})") from error
    return template


def render_chat(
    prompt: list[Message], completion: str, tokenizer: PreTrainedTokenizerBase, chat_template: str | None
) -> tuple[str, str]:
    """(the prompt's text with the opening of the assistant's turn, the completion's text with its closing).

    Where a template opens the turn otherwise when asked for a prompt than when it writes a whole chat (some
    reasoning models), the completion is the bare content after the opening that generation will see.
    """
    if chat_template is None and tokenizer.chat_template is None:
        raise UserError(
            "the tokenizer has no chat template and the rows are `messages`; give --chat-template FILE"
        )
    asked = _render(prompt, tokenizer, chat_template, add_generation_prompt=True)
    answer = [*prompt, {"role": "assistant", "content": completion}]
    whole = _render(answer, tokenizer, chat_template, add_generation_prompt=False)
    return asked, whole.removeprefix(asked) if whole.startswith(asked) else completion


def _render(
    messages: list[Message],
    tokenizer: PreTrainedTokenizerBase,
    chat_template: str | None,
    add_generation_prompt: bool,
) -> str:
    try:
        return str(
            tokenizer.apply_chat_template(
                messages,
                chat_template=chat_template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )
        )
    except jinja2.TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"the chat template refuses messages with the roles {roles}: {error}; mend the rows or give "
            "--chat-template FILE"
        ) from error
