import pytest
import torch
from tiny import FAMILIES, tiny_model
from tiny_tokenizer import tiny_tokenizer

from depthprune.evaluation import logprobs
from depthprune.evaluation.logprobs import target_logprobs

SEQUENCES = [[5, 6, 7, 8, 9, 10], [11, 12], [13, 14, 15, 16]]
POSITIONS = [[1, 1, 4], [0], [3, 0]]
TARGETS = [[50, 51, 10], [12], [60, 14]]


@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_those_of_each_sequence_alone(family, batch_size):
    model, tokenizer = tiny_model(family), tiny_tokenizer()
    found = target_logprobs(model, tokenizer, SEQUENCES, POSITIONS, TARGETS, batch_size)
    for ids, places, tokens, values in zip(SEQUENCES, POSITIONS, TARGETS, found, strict=True):
        with torch.no_grad():
            whole = model(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)
        torch.testing.assert_close(values, whole[places, tokens], rtol=1e-4, atol=1e-5)


def test_a_batch_is_smaller_where_memory_is_short(monkeypatch):
    model, tokenizer = tiny_model(layers=2), tiny_tokenizer()
    whole = target_logprobs(model, tokenizer, SEQUENCES, POSITIONS, TARGETS, 16)
    monkeypatch.setattr(logprobs, "affordable_tokens", lambda model, length: 6)
    widths = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: widths.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    few = target_logprobs(model, tokenizer, SEQUENCES, POSITIONS, TARGETS, 16)
    assert max(widths) <= 6
    for one, other in zip(whole, few, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
