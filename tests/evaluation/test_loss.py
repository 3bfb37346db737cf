import math

import datasets
import pytest
import torch
from tiny import tiny_model
from tiny_tokenizer import tiny_tokenizer

from depthprune.data.examples import Examples
from depthprune.errors import UserError
from depthprune.evaluation.loss import completion_loss, text_loss

DOCUMENTS = ["the cat sat on the mat", "dogs", "a bird in the hand"]


def text(*documents: str) -> Examples:
    return Examples("t", "t.txt", "text", datasets.Dataset.from_dict({"text": list(documents)}))


@torch.no_grad()
def naive_window(model, ids: list[int]) -> list[float]:
    logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return [-float(logprobs[k - 1, ids[k]]) for k in range(1, len(ids))]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_text_is_measured_window_by_window(family, bos, batch_size):
    model, tokenizer = tiny_model(family, layers=3, vocab_size=300), tiny_tokenizer(bos=bos, pad=False)
    loss, perplexity = text_loss(model, tokenizer, text(*DOCUMENTS), batch_size, 8)
    windows = []
    for document in DOCUMENTS:
        ids = tokenizer(document, add_special_tokens=False)["input_ids"]
        step = 8 - bos
        windows += [[tokenizer.bos_token_id] * bos + ids[i : i + step] for i in range(0, len(ids), step)]
    losses = [naive_window(model, window) for window in windows]
    mean = sum(map(sum, losses)) / sum(map(len, losses))
    assert loss.value == pytest.approx(mean, rel=1e-5)
    assert perplexity.value == pytest.approx(math.exp(mean), rel=1e-4)
    assert loss.n == perplexity.n == len(windows)
    assert perplexity.stderr == pytest.approx(perplexity.value * loss.stderr)


def test_stderr_over_equal_windows_is_that_of_the_mean():
    model, tokenizer = tiny_model(layers=2, vocab_size=300), tiny_tokenizer()
    loss, _ = text_loss(model, tokenizer, text("abcdefghijkl"), 16, 4)
    means = [
        sum(naive_window(model, tokenizer(part)["input_ids"])) / 3 for part in ("abc", "def", "ghi", "jkl")
    ]
    assert loss.stderr == pytest.approx(float(torch.tensor(means).std()) / 2, rel=1e-4)


def test_limit_counts_windows_from_the_whole_text():
    model, tokenizer = tiny_model(layers=2, vocab_size=300), tiny_tokenizer()
    some, _ = text_loss(model, tokenizer, text("abcdefghijkl"), 16, 4, limit=2)
    wanted, _ = text_loss(model, tokenizer, text("abc", "ghi"), 16, 4)
    assert (some.n, some.value) == (2, pytest.approx(wanted.value))


def test_without_a_limit_a_long_text_is_measured_in_part(monkeypatch, caplog):
    caplog.set_level("INFO", logger="depthprune")
    monkeypatch.setattr("depthprune.evaluation.loss.TEXT_TOKENS", 8)
    model, tokenizer = tiny_model(layers=2, vocab_size=300), tiny_tokenizer()
    some, perplexity = text_loss(model, tokenizer, text("abcdefghijkl"), 16, 4)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["t: measured on 2 of its 4 windows (evaluation.limit=4 for all)"]
    wanted, _ = text_loss(model, tokenizer, text("abcdefghijkl"), 16, 4, limit=2)
    assert (some.n, some.of, perplexity.of, some.value) == (2, 4, 4, wanted.value)
    assert some.to_dict()["of"] == 4
    whole, _ = text_loss(model, tokenizer, text("abcdefghijkl"), 16, 4, limit=4)
    assert whole.n == 4 and "of" not in whole.to_dict()


def test_text_too_short_to_predict():
    with pytest.raises(UserError, match="no text long enough"):
        text_loss(tiny_model(layers=1, vocab_size=300), tiny_tokenizer(bos=False), text("a"), 16, 4)


def test_completion_loss_is_the_models_own_on_the_completions():
    model, tokenizer = tiny_model(layers=3, vocab_size=300), tiny_tokenizer()
    pairs = [("News:", " good"), ("A longer piece of news:", " bad news")]
    columns = {"prompt": [p for p, _ in pairs], "completion": [c for _, c in pairs]}
    rows = Examples("d", "d", "prompt-completion", datasets.Dataset.from_dict(columns))
    measured = completion_loss(model, tokenizer, rows, 16, 64)
    losses = []
    for prompt, completion in pairs:
        ids = [*tokenizer(prompt + completion)["input_ids"], tokenizer.eos_token_id]
        losses += naive_window(model, ids)[len(tokenizer(prompt)["input_ids"]) - 1 :]
    assert len(losses) == 6 + 10
    assert measured.value == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert (measured.metric, measured.n) == ("loss", 2)
