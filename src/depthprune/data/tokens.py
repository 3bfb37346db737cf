"""From rows to tokens: one encoder for scoring, training and evaluation, so that they cannot disagree."""

import logging
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from depthprune.data.chat import Message, render_chat
from depthprune.data.examples import Examples
from depthprune.errors import UserError

logger = logging.getLogger("depthprune")


def encode(
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    chat_template: str | None = None,
) -> datasets.Dataset:
    """Tokenised rows with TRL's own columns: `input_ids` and, where there is a completion, `completion_mask`.

    A prompt and completion end with one EOS and are cut at the end to `max_length` tokens; a row whose prompt
    alone fills them has nothing to learn and is left out, which is logged. A document longer than `max_length`
    becomes several rows, each opened by the tokenizer's BOS where it has one.
    Raises `UserError` for a tokenizer without EOS or without a needed chat template, and when no row is left.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path or 'the model'} has no EOS token, so the model would never "
            "learn to stop; set `eos_token` in its tokenizer_config.json"
        )
    if examples.kind == "text":
        rows = _encode_documents(examples, tokenizer, max_length)
    else:
        rows = _encode_completions(examples, tokenizer, max_length, chat_template)
    if not rows:
        raise UserError(
            f"{examples.source}: no row leaves a token to learn within max_length {max_length}; raise max_length"
        )
    return datasets.Dataset.from_list(rows)


def encode_completion(
    row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None
) -> tuple[list[int], list[int]]:
    """The token ids of a row's prompt, and of its completion with exactly one EOS at the end."""
    prompt, completion = row["prompt"], row["completion"]
    if not isinstance(prompt, str):
        prompt, completion = render_chat(prompt, completion, tokenizer, chat_template)
    prompt_ids, (completion_ids,) = encode_continuations(prompt, [completion], tokenizer)
    return prompt_ids, close(completion_ids, tokenizer)


def encode_continuations(
    prompt: str, continuations: list[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[list[int]]]:
    """The token ids of a prompt, and of each continuation after it, without EOS.

    As in lm-eval, spaces at the end of the prompt go to the continuation, and a continuation's tokens are those
    of prompt + continuation after the prompt's. Where a token would straddle the two, the continuation is
    tokenised by itself instead: the prompt's tokens are then still the ones that generation starts from.
    """
    stripped = prompt.rstrip()
    spaces = prompt[len(stripped) :]
    texts = [stripped, *(stripped + spaces + continuation for continuation in continuations)]
    prompt_ids, *joint = (open_with_bos(ids, tokenizer) for ids in _token_ids(texts, tokenizer))
    tails = []
    for continuation, ids in zip(continuations, joint, strict=True):
        if ids[: len(prompt_ids)] == prompt_ids and len(ids) > len(prompt_ids):
            tails.append(ids[len(prompt_ids) :])
        else:
            tails.append(_token_ids([spaces + continuation], tokenizer)[0])
    return prompt_ids, tails


def encode_prompt(
    prompt: str | list[Message], tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None
) -> list[int]:
    """The token ids that generation starts from: those of `encode_completion`'s prompt."""
    if not isinstance(prompt, str):
        prompt, _ = render_chat(prompt, "", tokenizer, chat_template)
    return encode_continuations(prompt, [], tokenizer)[0]


def encode_document(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids of a text alone: no BOS, no EOS."""
    return _token_ids([text], tokenizer)[0]


def opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts before every text: its BOS, mostly, or nothing."""
    marked = tokenizer("a")["input_ids"]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    start = next(i for i in range(len(marked)) if marked[i : i + len(bare)] == bare)
    return marked[:start]


def open_with_bos(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """`ids` with the tokenizer's opening exactly once: many chat templates write the BOS themselves."""
    bos = opening(tokenizer)
    return ids if ids[: len(bos)] == bos else bos + ids


def close(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """`ids` with exactly one EOS at the end: a chat template may have written it, and a line break after it."""
    eos = tokenizer.eos_token_id
    if eos in ids:
        last = len(ids) - 1 - ids[::-1].index(eos)
        if not tokenizer.decode(ids[last + 1 :]).strip():
            ids = ids[:last]
    while ids and ids[-1] == eos:
        ids = ids[:-1]
    return [*ids, eos]


def windows(ids: list[int], length: int, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Cuts a document into consecutive windows of at most `length` tokens, the BOS that opens each included."""
    bos = opening(tokenizer)
    step = length - len(bos)
    return [bos + ids[start : start + step] for start in range(0, len(ids), step)]


def _token_ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def _encode_documents(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[dict[str, list[int]]]:
    rows = []
    for text in examples.rows["text"]:
        ids = close(encode_document(text, tokenizer), tokenizer)
        rows += [{"input_ids": window} for window in windows(ids, max_length, tokenizer) if len(window) > 1]
    return rows


def _encode_completions(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int, chat_template: str | None
) -> list[dict[str, list[int]]]:
    rows = []
    for row in examples.rows:
        prompt, completion = encode_completion(row, tokenizer, chat_template)
        if len(prompt) < max_length:
            mask = [0] * len(prompt) + [1] * len(completion)
            rows.append(
                {"input_ids": (prompt + completion)[:max_length], "completion_mask": mask[:max_length]}
            )
    if len(rows) < len(examples.rows):
        logger.warning(
            "%s: left out %d of %d rows, whose prompts fill max_length %d",
            examples.source,
            len(examples.rows) - len(rows),
            len(examples.rows),
            max_length,
        )
    return rows
