from contextlib import contextmanager

import torch
from tiny import tiny_batch, tiny_model

from depthprune.bench.draft import passes_counted
from depthprune.bench.generating import generation


class Passes:
    """Notes how many forward passes each section has."""

    def __init__(self, passes):
        self.passes = passes
        self.found = []

    @contextmanager
    def __call__(self, name):
        before = len(self.passes)
        yield
        self.found.append((name, len(self.passes) - before))


def test_the_first_token_ends_the_prefill_and_no_end_token_the_decoding():
    model = tiny_model()
    with torch.no_grad():
        lm_head = model.lm_head.weight
        lm_head[2] = 100 * lm_head.mean(0)  # the end token would come often
    for batch in (1, 3):
        with passes_counted(model) as passes:
            section = Passes(passes)
            generation(model, tiny_batch(batch_size=batch)["input_ids"], 7)(section)
        assert section.found == [("prefill", 1), ("decode", 6)]


def test_a_section_is_closed_where_generation_breaks_off():
    model, left = tiny_model(), []

    @contextmanager
    def section(name):
        try:
            yield
        finally:
            left.append(name)

    work = generation(model, torch.full((1, 4), 10_000), 4)  # no such token
    try:
        work(section)
    except IndexError:
        assert left == ["prefill"]
    else:
        raise AssertionError
