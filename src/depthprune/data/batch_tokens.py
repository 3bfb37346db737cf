"""Many texts → token ids: in batches, without the offsets that nobody asks for, with a bar.

The ids are those of `tokenizer(text, add_special_tokens=False)`, exactly.
"""

import logging
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from depthprune.cost import with_progress

logger = logging.getLogger("depthprune")

_BATCH = 1_000_000  # characters that are tokenised at a time
_WORTH_SAYING = 20_000_000  # characters that take a while, also without a terminal
_AROUND = 400  # characters on either side of a cut that must be split there by the tokenizer too


def token_ids(texts: list[str], tokenizer: PreTrainedTokenizerBase, batch: int = _BATCH) -> list[list[int]]:
    """The token ids of each text, without special tokens."""
    characters = sum(map(len, texts))
    if characters >= _WORTH_SAYING:
        logger.info("tokenises %d texts of %.0f million characters", len(texts), characters / 1e6)
    ids: list[list[int]] = [[] for _ in texts]
    batches = list(_batches(texts, tokenizer, batch))
    shown = with_progress(batches, "tokens") if len(batches) > 4 else batches
    for pieces in shown:
        for (i, _), found in zip(pieces, _ids([piece for _, piece in pieces], tokenizer), strict=True):
            if ids[i]:
                ids[i].extend(found)
            else:
                ids[i] = found
    return ids


def _batches(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, size: int
) -> Iterator[list[tuple[int, str]]]:
    """The pieces of all texts, each with its text's number, about `size` characters at a time."""
    gathered: list[tuple[int, str]] = []
    characters = 0
    for i, text in enumerate(texts):
        for piece in pieces(text, tokenizer, size):
            gathered.append((i, piece))
            characters += len(piece)
            if characters >= size:
                yield gathered
                gathered, characters = [], 0
    if gathered:
        yield gathered


def pieces(text: str, tokenizer: PreTrainedTokenizerBase, size: int) -> Iterator[str]:
    """A long text in pieces of about `size` characters whose tokens are, joined, those of the text.

    It is cut only between words, where the tokenizer's own normaliser and pre-tokeniser cut as well: no token
    reaches from one of their parts into the next. A tokenizer without such parts (Gemma's) gets it whole.
    """
    start = 0
    while len(text) - start > 2 * size and _is_backend(tokenizer):
        cut = next((at for at in _between_words(text, start + size) if _cuts(tokenizer, text, at)), None)
        if cut is None:
            break
        yield text[start:cut]
        start = cut
    yield text[start:] if start else text


def _between_words(text: str, begin: int) -> Iterator[int]:
    """A few places where a word ends before a line break or space."""
    tried = 0
    for at in range(begin, min(begin + 20_000, len(text) - 2)):
        if text[at] in " \n" and text[at - 1].isalnum() and text[at + 1].isalnum():
            yield at
            tried += 1
            if tried == 5:
                return


def _cuts(tokenizer: PreTrainedTokenizerBase, text: str, at: int) -> bool:
    backend = tokenizer.backend_tokenizer
    if backend.pre_tokenizer is None or any(
        " " in one.content.strip() for one in tokenizer.added_tokens_decoder.values()
    ):
        return False
    left, right = text[at - _AROUND : at], text[at : at + _AROUND]
    normal = backend.normalizer.normalize_str if backend.normalizer else str
    if normal(left + right) != normal(left) + normal(right):
        return False
    whole, before, after = (
        [part for part, _ in backend.pre_tokenizer.pre_tokenize_str(normal(one)) if part]
        for one in (left + right, left, right)
    )
    return whole == before + after


def _ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    if not _is_backend(tokenizer):
        return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    tokenizer(
        "", add_special_tokens=False
    )  # sets the backend as transformers does: no padding, no truncation
    backend = tokenizer.backend_tokenizer
    return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]


def _is_backend(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the ids are what the Rust tokenizer gives: some classes do more in Python."""
    kind = type(tokenizer)
    return isinstance(tokenizer, PreTrainedTokenizerFast) and (
        kind._encode_plus is PreTrainedTokenizerFast._encode_plus
        and kind.__call__ is PreTrainedTokenizerBase.__call__
    )
