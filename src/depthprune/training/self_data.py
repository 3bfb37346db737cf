"""Training on the dense model's own answers to the user's prompts (arXiv:2602.01997)."""

import json
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from depthprune.cost import with_progress
from depthprune.data.batches import token_batches
from depthprune.data.examples import Examples
from depthprune.errors import UserError
from depthprune.evaluation.logprobs import BATCH_ROW
from depthprune.files import read_json_lines, write_text
from depthprune.model.generation import continuations, decoding, fitted
from depthprune.training.base import SelfData


def check_prompts(examples: Examples) -> None:
    """Raises `UserError` for rows that ask nothing."""
    if examples.kind == "text":
        raise UserError(
            f"{examples.source}: rows of `text` have no prompts for the model to answer: give rows with "
            "`prompt` and `completion` or `messages`, or choose training.data=given"
        )


def write_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    prompts: list[list[int]],
    settings: SelfData,
    length: int,
    seed: int,
    partial: Path,
    path: Path,
) -> str:
    """Lets `model` answer every prompt → `path`, and says in a line what it wrote.

    `prompts` are the tokens of those of `examples`. `path` holds JSON lines in their order: the columns of
    the user's own rows (calls of tools as the text that the template makes of them), and `row` (the place
    there), `input_ids`, `completion_mask`, and `finished`, false where the length ended the answer. Prompt
    and answer share `length` tokens. Blank answers are left out.
    Batches go to `partial` as they come: a call that was killed goes on with the next one. It stays.

    Raises:
        UserError: all answers are blank.
    """
    prompts, new_tokens = fitted(prompts, tokenizer, length, settings.max_new_tokens)
    decoded = decoding(model, tokenizer, new_tokens, settings.temperature)
    batches = token_batches([len(ids) + new_tokens for ids in prompts], settings.batch_size * BATCH_ROW)
    answers = _generate(model, prompts, batches, decoded, seed, partial)
    ends = set(decoded.eos_token_id or [])
    rows = [_row(examples, i, prompts[i], answers[i], ends, tokenizer) for i in range(len(prompts))]
    return _write(rows, examples.source, path)


def answered_rows(path: Path) -> datasets.Dataset:
    """The rows of `write_answers` as training takes them, with the very tokens that were written.

    An answer that the length ended has no EOS: the model is not to learn to stop there.
    """
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return datasets.Dataset.from_list(
        [{name: row[name] for name in ("input_ids", "completion_mask")} for row in rows]
    )


def _generate(
    model: PreTrainedModel,
    prompts: list[list[int]],
    batches: list[list[int]],
    decoded: GenerationConfig,
    seed: int,
    partial: Path,
) -> dict[int, list[int]]:
    """What the model writes after each prompt, by its place; one line of `partial` a batch."""
    done = _whole_lines(partial)
    with partial.open("a", encoding="utf-8") as stream:
        for number, indices in with_progress(list(enumerate(batches))[len(done) :], "answers"):
            # A batch's draws hang on its number alone, so that a resumed call draws the same.
            with torch.random.fork_rng(), torch.inference_mode():
                torch.manual_seed(seed + number)
                done.append(continuations(model, [prompts[i] for i in indices], decoded))
            stream.write(json.dumps(done[-1]) + "\n")
            stream.flush()
    places = [i for batch in batches for i in batch]
    return dict(zip(places, [ids for batch in done for ids in batch], strict=True))


def _whole_lines(partial: Path) -> list[list[list[int]]]:
    """The batches that an earlier call wrote to their end; the file then holds just these."""
    if not partial.is_file():
        return []
    whole = read_json_lines(partial)
    write_text(partial, "".join(json.dumps(line) + "\n" for line in whole))
    return whole


def _row(
    examples: Examples, i: int, prompt: list[int], answer: list[int], ends: set[int], tokenizer: Any
) -> dict[str, Any]:
    # Decoded behind its prompt, for decoding an answer alone may drop the space that it begins with.
    before = tokenizer.decode(prompt, skip_special_tokens=True)
    whole = tokenizer.decode(prompt + answer, skip_special_tokens=True)
    text = (
        whole.removeprefix(before)
        if whole.startswith(before)
        else tokenizer.decode(answer, skip_special_tokens=True)
    )
    own = examples.rows[i]
    if examples.kind == "messages":
        beside = {name: own[name] for name in ("tools", "chat_template_kwargs") if own.get(name)}
        columns = {"messages": [*own["prompt"], {"role": "assistant", "content": text}], **beside}
    else:
        columns = {"prompt": own["prompt"], "completion": text}
    return {
        "row": i,
        **columns,
        "finished": answer[-1] in ends,
        "blank": not text.strip(),
        "input_ids": prompt + answer,
        "completion_mask": [0] * len(prompt) + [1] * len(answer),
    }


def _write(rows: list[dict[str, Any]], source: str, path: Path) -> str:
    kept = [{name: row[name] for name in row if name != "blank"} for row in rows if not row["blank"]]
    if not kept:
        raise UserError(
            f"{source}: the model's answers to all {len(rows)} prompts are blank, nothing to learn from: "
            "choose training.data=given"
        )
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    blank = f", {len(rows) - len(kept)} blank ones left out" if len(kept) < len(rows) else ""
    unfinished = sum(not row["finished"] for row in kept)
    return f"{len(kept)} answers{blank}, {unfinished} of them cut off by the length"
