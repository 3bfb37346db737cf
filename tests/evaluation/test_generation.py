import datasets
import pytest
import torch
from tiny import tiny_model
from tiny_tokenizer import tiny_tokenizer

from depthprune.data.examples import Examples
from depthprune.evaluation.generation import completion_overlap, generate, text_overlap

PROMPTS = ["a", "some longer words", "ten", "the cat sat on"]


def prompt_ids(tokenizer) -> list[list[int]]:
    return [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]


@torch.no_grad()
def naive_greedy(model, tokenizer, ids: list[int], steps: int) -> str:
    """No batch, no padding, no cache: the argmax of a whole forward pass a token."""
    written: list[int] = []
    while len(written) < steps and tokenizer.eos_token_id not in written:
        written.append(int(model(torch.tensor([ids + written])).logits[0, -1].argmax()))
    return tokenizer.decode(written, skip_special_tokens=True)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "bloom"])
@pytest.mark.parametrize("pad", [True, False])
def test_a_batch_writes_what_each_prompt_alone_does(family, pad):
    tokenizer = tiny_tokenizer(pad=pad)
    model = tiny_model(family, layers=3, vocab_size=len(tokenizer))
    written = generate(model, tokenizer, prompt_ids(tokenizer), 16, 64, 8)
    assert written == [naive_greedy(model, tokenizer, ids, 8) for ids in prompt_ids(tokenizer)]


def test_what_the_checkpoint_asks_of_generation_is_undone_and_left_as_it_was():
    tokenizer = tiny_tokenizer()
    model = tiny_model(layers=3, vocab_size=len(tokenizer))
    plain = generate(model, tokenizer, prompt_ids(tokenizer), 16, 64, 8)
    asked = {
        "repetition_penalty": 5.0,
        "num_beams": 3,
        "do_sample": True,
        "temperature": 9.0,
        "use_cache": False,
    }
    model.generation_config.update(**asked)
    before = model.generation_config.to_dict()
    assert generate(model, tokenizer, prompt_ids(tokenizer), 16, 64, 8) == plain
    assert model.generation_config.to_dict() == before


def test_prompt_and_text_share_the_context():
    tokenizer = tiny_tokenizer()
    model = tiny_model("gpt2", layers=2, vocab_size=len(tokenizer), n_positions=16)
    long = tokenizer("x" * 50 + "abcdefg")["input_ids"]
    cut = tokenizer("abcdefg")["input_ids"]
    assert generate(model, tokenizer, [long], 16, 16, 99) == [naive_greedy(model, tokenizer, cut, 8)]


def test_overlap_of_known_texts():
    found = text_overlap(
        ["  the cat\nsat ", "The cat sat.", "猫", "", "ein Bär"],
        ["the cat sat"] * 2 + ["猫", "a", "kein Bär"],
    )
    assert found["exact_match"] == [1.0, 0.0, 1.0, 0.0, 0.0]
    assert found["rougeL"] == pytest.approx([1.0, 1.0, 1.0, 0.0, 0.5])
    # Longest common subsequence "the cat": precision 2/3, recall 2/4.
    assert text_overlap(["the cat sat"], ["the cat lay there"])["rougeL"] == pytest.approx([4 / 7])


def test_what_is_written_is_compared_with_the_completions():
    tokenizer = tiny_tokenizer()
    model = tiny_model(layers=3, vocab_size=len(tokenizer))
    first, second = (naive_greedy(model, tokenizer, ids, 8) for ids in prompt_ids(tokenizer)[:2])
    completions = [f"  {first}\n", f"{second} never written"]
    columns = {"prompt": PROMPTS[:2], "completion": completions}
    rows = Examples("d", "d", "prompt-completion", datasets.Dataset.from_dict(columns))
    exact, rouge = completion_overlap(model, tokenizer, rows, 16, 64, 8)
    assert (exact.metric, exact.value, exact.n, exact.stderr) == ("exact_match", 0.5, 2, 0.5)
    expected = text_overlap([first, second], completions)["rougeL"]
    assert (rouge.metric, rouge.value, rouge.n) == ("rougeL", pytest.approx(sum(expected) / 2), 2)


def test_the_reference_is_what_was_trained_on():
    tokenizer = tiny_tokenizer()
    model = tiny_model(layers=3, vocab_size=len(tokenizer))
    # A template that writes an answer otherwise than it stands there, and asks for none.
    template = (
        "{% for m in messages %}{{ 'Q:' if m.role == 'user' }}{{ m.content.replace('@', '') }}{% endfor %}"
    )
    written = naive_greedy(model, tokenizer, tokenizer("Q:ten")["input_ids"], 8)
    columns = {
        "prompt": [[{"role": "user", "content": "ten"}]],
        "completion": [[{"role": "assistant", "content": f"@{written}"}]],
    }
    json = datasets.Features({name: datasets.Json() for name in columns})
    rows = Examples("d", "d", "messages", datasets.Dataset.from_dict(columns, json))
    exact, _ = completion_overlap(model, tokenizer, rows, 16, 64, 8, template)
    assert exact.value == 1.0
