import dataclasses
import json
from pathlib import Path

import datasets
import pytest
import torch
from tiny import tiny_model
from tiny_tokenizer import tiny_tokenizer

from depthprune.data.examples import Examples, load_examples
from depthprune.errors import UserError
from depthprune.evaluation.evaluate import evaluate

LAB = Path(__file__).parents[2] / "../shared/lab"


def examples(kind: str, **columns: list) -> Examples:
    return Examples("d", "d.jsonl", kind, datasets.Dataset.from_dict(columns))


CHOICES = examples("prompt-completion", prompt=["p", "q"], completion=["a", "b"], choices=[["a", "b"]] * 2)
PAIRS = examples("prompt-completion", prompt=["p", "q"], completion=["a", "b"])
CHATS = examples("messages", prompt=[[{"role": "user", "content": "u"}]] * 2, completion=["a", "b"])
TEXT = examples("text", text=["some words", "and more"])


@pytest.mark.parametrize(
    ("rows", "metrics"),
    [
        (CHOICES, ["accuracy"]),
        (PAIRS, ["exact_match", "rougeL", "loss"]),
        (CHATS, ["exact_match", "rougeL", "loss"]),
        (TEXT, ["loss", "perplexity"]),
    ],
)
def test_the_rows_decide_what_is_measured(rows, metrics):
    measured = evaluate(tiny_model(layers=2, vocab_size=300), tiny_tokenizer(), rows, max_new_tokens=4)
    assert [one.metric for one in measured] == metrics
    assert [one.n for one in measured] == [2] * len(metrics)
    assert json.loads(json.dumps([one.to_dict() for one in measured]))[0]["dataset"] == "d"


@pytest.mark.parametrize("training", [True, False])
def test_the_model_stays_as_it_is(training):
    model = tiny_model(layers=2, vocab_size=300).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    configs = model.config.to_dict(), model.generation_config.to_dict()
    evaluate(model, tiny_tokenizer(pad=False), PAIRS, max_new_tokens=2)
    assert model.training is training
    assert (model.config.to_dict(), model.generation_config.to_dict()) == configs
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_limit_takes_rows_from_end_to_end():
    model, tokenizer = tiny_model(layers=2, vocab_size=300), tiny_tokenizer()
    rows = examples(
        "prompt-completion", prompt=list("abcd"), completion=list("wxyz"), choices=[list("wxyz")] * 4
    )
    some = examples("prompt-completion", prompt=list("ac"), completion=list("wy"), choices=[list("wxyz")] * 2)
    (found,), (wanted,) = evaluate(model, tokenizer, rows, limit=2), evaluate(model, tokenizer, some)
    assert found == dataclasses.replace(wanted, of=4)


def test_bfloat16_is_measured_in_float32():
    model = tiny_model(layers=2, vocab_size=300).bfloat16()
    (loss, _), (again, _) = (evaluate(model, tiny_tokenizer(), TEXT, batch_size=size) for size in (1, 16))
    assert loss.value == pytest.approx(again.value, rel=1e-2)
    assert loss.value != float(torch.tensor(loss.value).bfloat16())


@pytest.mark.parametrize("rows", [CHOICES, PAIRS, CHATS, TEXT])
def test_a_weight_that_is_not_finite_is_named(rows):
    model = tiny_model(layers=2, vocab_size=300)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    with pytest.raises(UserError, match=r"layer 1 is damaged, model\.layers\.1\.mlp\.up_proj\.weight holds"):
        evaluate(model, tiny_tokenizer(), rows, max_new_tokens=4)


def test_arithmetic_that_overflows_is_a_users_error():
    model = tiny_model(layers=2, vocab_size=300)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(3e38)
    with pytest.raises(UserError, match="not finite; its weights are finite, so the arithmetic overflows"):
        evaluate(model, tiny_tokenizer(), TEXT)


@pytest.mark.slow
@pytest.mark.skipif(not LAB.exists(), reason="the lab's material is absent")
def test_lab_model():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(LAB / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(LAB / "model")
    (accuracy,) = evaluate(model, tokenizer, load_examples(LAB / "data/news/test.jsonl"), limit=100)
    assert accuracy.value == pytest.approx(0.25, abs=0.1)
    text = load_examples(LAB / "text/wikitext2-test.txt")
    _, perplexity = evaluate(model, tokenizer, text, max_length=256, limit=20)
    assert perplexity.value == pytest.approx(57, abs=12)
