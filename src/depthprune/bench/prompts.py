"""The prompts that a draft is measured on: the user's own, or those of the run that made the model."""

from pathlib import Path
from typing import Any

from depthprune.data.chat import load_chat_template
from depthprune.data.examples import Examples, load_examples
from depthprune.data.split import spread
from depthprune.data.splits import FOR_EVALUATION
from depthprune.data.tokens import encode_documents, encode_prompts, opening
from depthprune.data.vocabulary import check_tokens
from depthprune.errors import UserError
from depthprune.model.generation import fitted

PROMPTS = 8
PROMPT_TOKENS = 128
"""At most: a longer prompt loses its beginning."""
OPENING_TOKENS = 64
"""Of a text, which has no prompt: each such piece of it is one."""


def find_prompts(model: str, given: str | None) -> str:
    """The data to read; raises UserError where nobody has named any."""
    if given is not None:
        return given
    recipe = Path(model).expanduser() / "depthprune" / "recipe.yaml"
    if recipe.is_file():
        from depthprune.recipe.load import load_recipe

        if evals := load_recipe(recipe).eval:
            return evals[0]
    raise UserError(f"no prompts: {model} names no evaluation data: give a file or a hub id with --prompts")


def load_prompts(
    source: str,
    tokenizer: Any,
    vocabulary: int,
    new_tokens: int,
    context: int | None,
    chat_template: str | None = None,
) -> tuple[list[list[int]], int]:
    """Token ids of `PROMPTS` prompts spread evenly over the data, and how many new tokens fit behind them."""
    template = None if chat_template is None else load_chat_template(chat_template)
    examples = load_examples(source, preferred=FOR_EVALUATION)
    few = examples.select(spread(len(examples.rows), PROMPTS))
    check_tokens(few, tokenizer, vocabulary, template)
    length = PROMPT_TOKENS + new_tokens
    prompts = _openings(few, tokenizer) if few.kind == "text" else encode_prompts(few, tokenizer, template)
    prompts = [ids for ids in prompts if ids]
    if not prompts:
        raise UserError(f"{source}: every prompt is empty: give other data with --prompts")
    return fitted(prompts, tokenizer, length if context is None else min(length, context), new_tokens)


def _openings(examples: Examples, tokenizer: Any) -> list[list[int]]:
    before = opening(tokenizer)
    pieces = [
        before + ids[start : start + OPENING_TOKENS]
        for ids in encode_documents(examples, tokenizer)
        for start in range(0, len(ids), OPENING_TOKENS)
    ]
    return [pieces[i] for i in spread(len(pieces), PROMPTS)]
