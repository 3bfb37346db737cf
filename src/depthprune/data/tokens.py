"""From texts to tokens, in one place for scoring, training and evaluation, so that they cannot disagree.

A prompt's tokens are always a prefix of what is trained on, scored, or generated from.
"""

import logging

import datasets
from transformers import PreTrainedTokenizerBase

from depthprune.data.batch_tokens import token_ids
from depthprune.data.chat import render_chats
from depthprune.data.examples import Examples
from depthprune.errors import UserError

logger = logging.getLogger("depthprune")

Row = dict[str, list[int]]


def encode(
    examples: Examples,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    chat_template: str | None = None,
) -> datasets.Dataset:
    """Tokenised rows with TRL's own columns: `input_ids` and, where there is a completion, `completion_mask`.

    A prompt and completion end with one EOS and are cut at the end to `max_length` tokens; a row whose prompt
    alone fills them has nothing to learn and is left out, which is logged. A document ends with one EOS; one
    longer than `max_length` becomes several rows, each opened by the tokenizer's BOS where it has one.

    TRL takes `completion_mask` into account only with `completion_only_loss=True`.
    Raises `UserError` for a tokenizer without EOS or without a needed chat template, and when no row is left.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} has no EOS token, so a model could not learn to stop; "
            "set `eos_token` in its tokenizer_config.json"
        )
    if examples.kind == "text":
        rows = _document_rows(examples, tokenizer, max_length)
    else:
        rows = _completion_rows(examples, tokenizer, max_length, chat_template)
    if not rows:
        raise UserError(
            f"{examples.source}: no row has a token to learn within max_length {max_length}: every prompt "
            "fills it; raise max_length or shorten the prompts"
        )
    return datasets.Dataset.from_dict({name: [row[name] for row in rows] for name in rows[0]})


def encode_prompts(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None
) -> list[list[int]]:
    """The token ids that generation starts from, row by row: those before the completions of `encode`."""
    pairs = _pairs(examples, tokenizer, chat_template)
    return [prompt for prompt, _ in _encode_pairs([(prompt, []) for prompt, _ in pairs], tokenizer)]


def encode_answers(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None
) -> list[tuple[list[int], list[int]]]:
    """The token ids of each row's prompt, and of its completion with EOS: what `encode` cuts to length."""
    pairs = _pairs(examples, tokenizer, chat_template)
    encoded = _encode_pairs([(prompt, [completion]) for prompt, completion in pairs], tokenizer)
    return [(prompt, _close(continuation, tokenizer)) for prompt, (continuation,) in encoded]


def encode_choices(
    examples: Examples, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[list[int], list[list[int]]]]:
    """The token ids of each row's prompt, and of each of its choices after it, without EOS."""
    rows = zip(examples.rows["prompt"][:], examples.rows["choices"][:], strict=True)
    return _encode_pairs([_move_spaces(prompt, choices) for prompt, choices in rows], tokenizer)


def encode_documents(examples: Examples, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The token ids of each text alone: no BOS, no EOS."""
    return token_ids(examples.rows["text"][:], tokenizer)


def opening(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special tokens that the tokenizer puts before every text: its BOS, mostly, or nothing."""
    marked = tokenizer("a")["input_ids"]
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    start = max(i for i in range(len(marked) + 1) if marked[i : i + len(bare)] == bare)
    return marked[:start]


def windows(ids: list[int], length: int, bos: list[int]) -> list[list[int]]:
    """Cuts a document into consecutive windows of at most `length` tokens, the `bos` of each included."""
    step = window_step(length, bos)
    return [bos + ids[start : start + step] for start in range(0, len(ids), step)]


def window_step(length: int, bos: list[int]) -> int:
    """How many tokens of a document a window of `length` holds; raises `UserError` where that is none."""
    if length <= len(bos):
        raise UserError(f"a length of {length} tokens leaves no room for text; give a longer one")
    return length - len(bos)


def keep_end(ids: list[int], room: int, bos: list[int]) -> list[int]:
    """A prompt cut at its beginning to `room` tokens, its BOS kept: what is asked stands at the end."""
    return ids if len(ids) <= room else bos + ids[len(ids) - room + len(bos) :]


def _document_rows(examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Row]:
    bos = opening(tokenizer)
    closed = [_close(ids, tokenizer) for ids in encode_documents(examples, tokenizer)]
    cut = [window for ids in closed for window in windows(ids, max_length, bos)]
    return [{"input_ids": window} for window in cut if len(window) > 1]


def _completion_rows(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int, chat_template: str | None
) -> list[Row]:
    encoded = encode_answers(examples, tokenizer, chat_template)
    rows = []
    for prompt, completion in encoded:
        mask = [0] * len(prompt) + [1] * len(completion)
        if len(prompt) < max_length:
            ids = prompt + completion
            rows.append({"input_ids": ids[:max_length], "completion_mask": mask[:max_length]})
    if len(rows) < len(encoded):
        left_out = f"{len(encoded) - len(rows)} of {len(encoded)} rows"
        logger.warning(
            "%s: left out %s, whose prompts fill max_length %d", examples.source, left_out, max_length
        )
    return rows


def _pairs(
    examples: Examples, tokenizer: PreTrainedTokenizerBase, chat_template: str | None
) -> list[tuple[str, str]]:
    """Each row's prompt and completion as texts whose concatenation the model is to see."""
    if examples.kind == "messages":
        return render_chats(examples, tokenizer, chat_template)
    rows = zip(examples.rows["prompt"][:], examples.rows["completion"][:], strict=True)
    moved = (_move_spaces(prompt, [completion]) for prompt, completion in rows)
    return [(prompt, completion) for prompt, (completion,) in moved]


def _move_spaces(prompt: str, continuations: list[str]) -> tuple[str, list[str]]:
    """Moves the white space that ends a prompt to its continuations, as lm-eval does.

    Most vocabularies join a space to the word after it, so a prompt that ends in one is off their path.
    """
    stripped = prompt.rstrip()
    spaces = prompt[len(stripped) :]
    return stripped, [spaces + continuation for continuation in continuations]


def _encode_pairs(
    pairs: list[tuple[str, list[str]]], tokenizer: PreTrainedTokenizerBase
) -> list[tuple[list[int], list[list[int]]]]:
    """The token ids of each prompt, opened by exactly one BOS, and of each of its continuations.

    As in lm-eval, a continuation's tokens are those of prompt + continuation after the prompt's. Where a
    token would straddle the two, the continuation is tokenised by itself.
    """
    if not pairs:
        return []
    bos = opening(tokenizer)
    texts = [text for prompt, tails in pairs for text in (prompt, *(prompt + tail for tail in tails))]
    encoded_texts = iter(token_ids(texts, tokenizer))
    encoded: list[tuple[list[int], list[list[int]]]] = []
    straddled: list[tuple[int, int, str]] = []
    for i, (_, tails) in enumerate(pairs):
        prompt_ids = next(encoded_texts)
        tail_ids = []
        for k, tail in enumerate(tails):
            ids = next(encoded_texts)
            if ids[: len(prompt_ids)] == prompt_ids and len(ids) > len(prompt_ids):
                tail_ids.append(ids[len(prompt_ids) :])
            else:
                tail_ids.append([])
                straddled.append((i, k, tail))
        # Many chat templates write the BOS themselves.
        encoded.append((prompt_ids if prompt_ids[: len(bos)] == bos else bos + prompt_ids, tail_ids))
    alone = token_ids([tail for _, _, tail in straddled], tokenizer)
    for (i, k, _), ids in zip(straddled, alone, strict=True):
        encoded[i][1][k] = ids
    return encoded


def _close(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """`ids` with exactly one EOS at the end: chat templates may write it, and a line break after it."""
    eos = tokenizer.eos_token_id
    if eos in ids:
        last = len(ids) - 1 - ids[::-1].index(eos)
        if not str(tokenizer.decode(ids[last + 1 :])).strip():
            ids = ids[:last]
    while ids and ids[-1] == eos:
        ids = ids[:-1]
    return [*ids, eos]
