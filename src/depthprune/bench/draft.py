"""A pruned model as the draft of its own base: assisted generation, through transformers' own `generate`.

The draft proposes some tokens, the base checks them in one pass and adds one of its own: what it writes is
what it would have written alone (speculative decoding, arXiv:2211.17192, here greedy).
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from depthprune.bench.clock import Section, Span, Work
from depthprune.bench.interleave import interleaved, spread
from depthprune.bench.models import Candidate, common_arithmetic, described, find
from depthprune.bench.prompts import find_prompts, load_prompts
from depthprune.bench.rows import PROCESSOR, WALL, ratio_of
from depthprune.bench.settings import BenchSettings
from depthprune.cost import with_progress
from depthprune.errors import UserError
from depthprune.model.generation import decoding
from depthprune.model.loading import explained, load_tokenizer
from depthprune.report.environment import environment

TEXT = "text"
MOST_PASSES = 5
"""Over the prompts, where there is time."""


@dataclass
class Way:
    """The base alone, `length` 0, or with a draft that proposes `length` tokens at a time.

    `written` has, by the number of a prompt, the new token ids and the passes of the base.
    """

    base: PreTrainedModel
    draft: PreTrainedModel
    decode: GenerationConfig
    length: int
    written: dict[int, tuple[list[int], int]] = field(default_factory=dict)

    def work(self, number: int, ids: list[int]) -> Work:
        """A work of one section, `TEXT`: it writes on from prompt `number`, the token ids `ids`."""
        prompt = torch.tensor([ids], device=self.base.device)

        def write(section: Section) -> None:
            with passes_counted(self.base) as passes, section(TEXT):
                output = self.base.generate(  # type: ignore[operator]
                    prompt,
                    attention_mask=torch.ones_like(prompt),
                    generation_config=self.decode,
                    **self._assistant(),
                )
            self.written[number] = output[0, len(ids) :].tolist(), len(passes)

        return write

    def _assistant(self) -> dict[str, Any]:
        if not self.length:
            return {}
        own = self.draft.generation_config
        assert own is not None
        own.num_assistant_tokens, own.num_assistant_tokens_schedule = self.length, "constant"
        own.assistant_confidence_threshold = 0.0  # as many as asked for, however sure the draft is
        return {"assistant_model": self.draft}


@contextmanager
def passes_counted(model: PreTrainedModel) -> Iterator[list[None]]:
    """A list that grows by one with each forward pass of the model."""
    passes: list[None] = []
    handle = model.register_forward_hook(lambda *_: passes.append(None))
    try:
        yield passes
    finally:
        handle.remove()


def bench_draft(
    draft: str,
    base: str,
    source: str | None,
    settings: BenchSettings,
    chat_template: str | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Accepted tokens a step and speed-up of a draft, by its length.

    Raises UserError for models that cannot be loaded, have other vocabularies or a cache that cannot go back,
    and for prompts that cannot be read.
    """
    found = {"draft": find(draft, trust_remote_code), "base": find(base, trust_remote_code)}
    _check_vocabularies(**found)
    source, tokenizer = find_prompts(draft, source), load_tokenizer(base, trust_remote_code)
    contexts = [one.context for one in found.values() if one.context is not None]
    context, vocabulary = min(contexts, default=None), found["base"].vocabulary
    prompts, new_tokens = load_prompts(
        source, tokenizer, vocabulary, settings.new_tokens, context, chat_template
    )
    arithmetic = common_arithmetic(list(found.values()))
    models = {name: candidate.load(arithmetic) for name, candidate in found.items()}
    decode = decoding(models["base"], tokenizer, new_tokens)
    if decode.eos_token_id:  # a text at a time has no padding, and generate must not see any in the prompt
        decode.pad_token_id = decode.eos_token_id[0]
    pair, lengths = (models["base"], models["draft"]), (0, *settings.draft_lengths)
    ways = {length: Way(*pair, decode, length) for length in lengths}
    with explained(f"{base} with {draft} as its draft: generation fails"):
        return {
            **{name: described(found[name], models[name]) for name in models},
            "environment": environment(),
            "arithmetic": arithmetic.to_json(),
            "ratio_of": ratio_of(),
            "prompts": {"source": source, "tokens": [len(ids) for ids in prompts]},
            **_measure(ways, prompts, settings.seconds),
        }


def _check_vocabularies(draft: Candidate, base: Candidate) -> None:
    if draft.vocabulary != base.vocabulary:
        raise UserError(
            f"{draft.path} has {draft.vocabulary} tokens and {base.path} {base.vocabulary}: a draft needs "
            "its base's vocabulary"
        )


def _measure(ways: dict[int, Way], prompts: list[list[int]], seconds: float) -> dict[str, Any]:
    """Texts and times of every way, by draft length; 0 is the base alone."""
    spans, passes = _in_turns(ways, prompts, seconds)
    alone = spans[0]
    return {
        "new_tokens": sum(len(ids) for ids, _ in ways[0].written.values()),
        "passes_over_prompts": passes,
        "alone": {"seconds": spread([span.wall for span in alone])},
        "rows": [
            {
                "draft_length": length,
                **_accepted(way),
                "seconds": spread([span.wall for span in spans[length]]),
                "speed_up": {
                    WALL: spread([a.wall / b.wall for a, b in zip(alone, spans[length], strict=True)]),
                    PROCESSOR: spread(
                        [a.processor / b.processor for a, b in zip(alone, spans[length], strict=True)]
                    ),
                },
                "differing": differing(ways[0], way, prompts),
            }
            for length, way in ways.items()
            if length
        ],
    }


def _in_turns(
    ways: dict[int, Way], prompts: list[list[int]], seconds: float
) -> tuple[dict[int, list[Span]], int]:
    """All ways at one prompt after the other, over and over while time lasts: spans, and how often."""
    spans: dict[int, list[Span]] = {length: [] for length in ways}
    interleaved({str(length): way.work(0, prompts[0]) for length, way in ways.items()}, 1)  # warms up
    start = time.perf_counter()
    for passes in range(1, MOST_PASSES + 1):
        for number, ids in with_progress(list(enumerate(prompts)), "draft"):
            works = {str(length): way.work(number, ids) for length, way in ways.items()}
            for name, found in interleaved(works, 1).items():
                spans[int(name)] += [sections[TEXT] for sections in found]
        if (time.perf_counter() - start) * (passes + 1) / passes > seconds:
            break
    return spans, passes


def _accepted(way: Way) -> dict[str, float]:
    """A step is a pass of the base: it takes over some of the draft's tokens and adds one of its own."""
    tokens = sum(len(ids) for ids, _ in way.written.values())
    steps = sum(passes for _, passes in way.written.values())
    return {"steps": steps, "accepted_per_step": (tokens - steps) / steps}


def differing(alone: Way, assisted: Way, prompts: list[list[int]]) -> list[dict[str, Any]]:
    """Where texts are not the base's own: the prompt, the first token, and how near two tokens were there.

    `gap` is that of the base's two best logits: checking several tokens at once rounds in another way than
    writing them one by one.
    """
    found = []
    for number, (ids, _) in alone.written.items():
        other = assisted.written[number][0]
        if ids != other:
            place = next(
                (i for i, (one, two) in enumerate(zip(ids, other, strict=False)) if one != two),
                min(len(ids), len(other)),
            )
            text = torch.tensor([prompts[number] + ids[:place]], device=alone.base.device)
            with torch.no_grad():
                best = alone.base(text, use_cache=False).logits[0, -1].float().topk(2).values
            found.append({"prompt": number, "token": place, "gap": (best[0] - best[1]).item()})
    return found
