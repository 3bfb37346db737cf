"""Assisted generation against greedy decoding and drafting by hand, without a cache or `generate`."""

import pytest
import torch
from tiny import tiny_model
from transformers import GenerationConfig

from depthprune.bench.draft import Way, differing
from depthprune.bench.interleave import interleaved
from depthprune.model.surgery import remove_layers

NEW, END = 12, 2
PROMPTS = [[5, 9, 77, 30], [41, 8, 3, 3, 90, 66], [12]]


def calm_model(family):
    """Its layers do so little that it goes on much the same without one of them."""
    model = tiny_model(family, **({"sliding_window": 32} if family == "gemma3_text" else {}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight", "feedforward_layernorm.weight")):
                parameter.mul_(0.3)
    return model


def written(base, draft, length):
    decode = GenerationConfig(max_new_tokens=NEW, do_sample=False, pad_token_id=END, eos_token_id=[END])
    way = Way(base, draft, decode, length)
    for number, ids in enumerate(PROMPTS):
        interleaved({"it": way.work(number, ids)}, 1)
    return way


@torch.no_grad()
def greedy(model, ids, new_tokens):
    new = []
    while len(new) < new_tokens and (not new or new[-1] != END):
        new.append(model(torch.tensor([ids + new]), use_cache=False).logits[0, -1].argmax().item())
    return new


def steps_by_hand(base, draft, prompt, length):
    """Passes of the base: each checks what the draft proposes, which leaves it a token of its own to add."""
    text, done, steps = greedy(base, prompt, NEW), 0, 0
    while done < len(text):
        proposed = greedy(draft, prompt + text[:done], min(length, NEW - done - 1))
        wanted = text[done : done + len(proposed)]
        right = [one == other for one, other in zip(proposed, wanted, strict=False)]
        done += (right.index(False) if False in right else len(right)) + 1
        steps += 1
    return steps


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_with_a_draft_the_base_writes_its_own_text_in_fewer_passes(family):
    base, draft = calm_model(family), remove_layers(calm_model(family), [3])
    alone = written(base, draft, 0)
    assert [ids for ids, _ in alone.written.values()] == [greedy(base, ids, NEW) for ids in PROMPTS]
    assert all(passes == len(ids) for ids, passes in alone.written.values())
    assisted = written(base, draft, 3)
    assert differing(alone, assisted, PROMPTS) == []
    steps = [passes for _, passes in assisted.written.values()]
    assert steps == [steps_by_hand(base, draft, ids, 3) for ids in PROMPTS]
    assert sum(steps) < sum(len(ids) for ids, _ in alone.written.values())


def test_a_draft_that_is_the_base_is_always_right():
    base = tiny_model()
    way = written(base, tiny_model(), 3)
    assert way.written[0] == (greedy(base, PROMPTS[0], NEW), NEW // 4)


def test_a_text_that_is_not_the_bases_own_is_found_with_how_near_it_was():
    base = tiny_model()
    alone, other = written(base, base, 0), written(base, base, 2)
    ids, passes = alone.written[1]
    other.written[1] = [*ids[:4], (ids[4] + 1) % 128, *ids[5:]], passes
    other.written[2] = alone.written[2][0][:3], 3
    first, second = differing(alone, other, PROMPTS)
    assert (first["prompt"], first["token"], second["prompt"], second["token"]) == (1, 4, 2, 3)
    with torch.no_grad():
        logits = base(torch.tensor([PROMPTS[1] + ids[:4]])).logits[0, -1].sort().values
    assert first["gap"] == pytest.approx((logits[-1] - logits[-2]).item(), rel=1e-3)
