"""A tokenizer's ids and the rows of a model's embedding: an id beyond them ends in an IndexError."""

import re
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from depthprune.data.batches import padding_id
from depthprune.data.examples import Examples
from depthprune.data.tokens import encode_answers, encode_choices, encode_documents, opening
from depthprune.errors import UserError

_MEND = (
    "the tokenizer has tokens that the model was not resized for: call resize_token_embeddings on the model"
)

# What stands for no text: by the name of its setting in tokenizer_config.json, or by its own.
_SETTING = re.compile(r"(image|boi|eoi|audio|boa|eoa|video|vision|speech)\w*_token")
_PLACEHOLDER = re.compile(r"(?i)[<\[{]\W?(\w*_)?(image|img|audio|video|vision|speech)(_?\w+)?\W?[>\]}]")


def tokens_beyond(tokenizer: PreTrainedTokenizerBase, rows: int) -> dict[int, str]:
    """The tokens of text, by id, that an embedding of `rows` rows does not hold; vocabularies may be shorter.

    Left out are the pad token, which the attention mask hides, and the placeholders.
    """
    placeholders = _placeholders(tokenizer)
    return {
        i: token
        for i, token in _beyond(tokenizer, rows).items()
        if token != tokenizer.pad_token and token not in placeholders
    }


def _beyond(tokenizer: PreTrainedTokenizerBase, rows: int) -> dict[int, str]:
    found = {i: token for token, i in tokenizer.get_vocab().items() if i >= rows}
    return {i: found[i] for i in sorted(found)}


def _placeholders(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Special tokens that stand for images, sound or films: Gemma 3's tokenizer has one more than its text
    models have rows."""
    named = {str(token) for name, token in tokenizer.special_tokens_map.items() if _SETTING.match(name)}
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return named | set(filter(_PLACEHOLDER.fullmatch, added))


def refuse_tokens_beyond(tokenizer: PreTrainedTokenizerBase, rows: int, where: str) -> None:
    """Raises `UserError` where a text could hold a token that the embedding of the model `where` does not."""
    if beyond := tokens_beyond(tokenizer, rows):
        raise UserError(
            f"{where}: {_said(beyond)} beyond the embedding's {rows} rows; {_MEND}, or take them out of the "
            "tokenizer"
        )


def check_tokens(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, rows: int, chat_template: str | None = None
) -> None:
    """Raises `UserError` for the first row with a token that an embedding of `rows` rows does not hold."""
    if max(tokenizer.get_vocab().values()) < rows:
        return
    for number, ids in enumerate(_all_ids(examples, tokenizer, chat_template)):
        if (largest := max(ids, default=0)) >= rows:
            token = tokenizer.convert_ids_to_tokens(largest)
            raise UserError(
                f"{examples.place(number)}: holds {token!r}, token {largest}, beyond the embedding's {rows} "
                f"rows; {_MEND}, or leave the token out"
            )


def pad_within(tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Gives the tokenizer another pad token where an embedding of `rows` rows has none for its own.

    Padding never counts, so that any will do.
    """
    if padding_id(tokenizer) >= rows:
        end = tokenizer.eos_token_id
        within = end if end is not None and end < rows else 0
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(within)


def note_of(tokenizer: PreTrainedTokenizerBase, rows: int) -> str | None:
    """What to say of tokens beyond the embedding, but the pad token, that no row holds, or None."""
    beyond = {i: token for i, token in _beyond(tokenizer, rows).items() if token != tokenizer.pad_token}
    if not beyond:
        return None
    return f"{_said(beyond)} beyond the embedding's {rows} rows; no row of the data holds one"


def _said(beyond: dict[int, str]) -> str:
    shown = ", ".join(f"{token!r} ({i})" for i, token in list(beyond.items())[:3])
    if len(beyond) == 1:
        return f"a token of the tokenizer, {shown}, lies"
    return f"{len(beyond)} tokens of the tokenizer, {shown}{' …' if len(beyond) > 3 else ''}, lie"


def _all_ids(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, chat_template: str | None
) -> Iterator[list[int]]:
    """Every token id that the model will see of each row."""
    if examples.kind == "text":
        before = opening(tokenizer)
        after = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        yield from (before + ids + after for ids in encode_documents(examples, tokenizer))
        return
    if examples.has_choices:
        for prompt, tails in encode_choices(examples, tokenizer):
            yield prompt + [token for tail in tails for token in tail]
        return
    for prompt, completion in encode_answers(examples, tokenizer, chat_template):
        yield prompt + completion
