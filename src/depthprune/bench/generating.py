"""Greedy generation as a user runs it, through transformers' own loop: a prefill, then token by token."""

from contextlib import ExitStack
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from depthprune.bench.clock import Section, Work

PREFILL, DECODE = "prefill", "decode"


class _Sections(BaseStreamer):
    """Told of every token, closes the prefill behind the first one and opens the decoding."""

    def __init__(self, section: Section) -> None:
        self.section = section
        self.told = 0
        self.open = ExitStack()
        self.open.enter_context(section(PREFILL))

    def put(self, value: Any) -> None:
        self.told += 1
        if self.told == 2:  # before it came the prompt
            self.open.close()
            self.open.enter_context(self.section(DECODE))

    def end(self) -> None:
        self.open.close()


def generation(model: PreTrainedModel, prompts: torch.Tensor, new_tokens: int) -> Work:
    """A work that writes exactly `new_tokens` after each prompt; `prompts` is [B, T] without padding.

    Its prefill ends with the first token, its decoding is the other `new_tokens` − 1.
    """
    settings = GenerationConfig(
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        pad_token_id=0,
    )
    prompts = prompts.to(model.device)
    mask = torch.ones_like(prompts)

    def work(section: Section) -> None:
        with ExitStack() as left_open:
            streamer = _Sections(section)
            left_open.push(streamer.open)  # where generate raises
            model.generate(  # type: ignore[operator]
                prompts, attention_mask=mask, generation_config=settings, streamer=streamer
            )

    return work
