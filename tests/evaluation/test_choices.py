import datasets
import pytest
import torch
from tiny import tiny_model
from tiny_tokenizer import tiny_tokenizer

from depthprune.data.examples import Examples
from depthprune.evaluation.choices import _shared_inputs, choice_accuracy, choice_scores, majority

PROMPTS = ["News: it rained\nTopic:", "News: a goal\nTopic: ", "a", "b c d e f"]
CHOICES = [[" ab", " a", " abc", " b"], ["x", " yy"], [" ab", "a", " b"], [" long answer", " short"]]
COMPLETIONS = [" a", " yy", " b", " short"]


def task(prompts=PROMPTS, completions=COMPLETIONS, choices=CHOICES) -> Examples:
    columns = {"prompt": prompts, "completion": completions, "choices": choices}
    return Examples("task", "task.jsonl", "prompt-completion", datasets.Dataset.from_dict(columns))


@torch.no_grad()
def naive_score(model, tokenizer, prompt: str, choice: str) -> float:
    """One choice at a time, as lm-eval defines acc_norm: Σ log p of the choice's tokens / characters."""
    whole = torch.tensor([tokenizer(prompt + choice)["input_ids"]])
    start = len(tokenizer(prompt.rstrip())["input_ids"])
    logprobs = model(whole).logits[0].log_softmax(-1)
    return sum(float(logprobs[k - 1, whole[0, k]]) for k in range(start, whole.shape[1])) / len(choice)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "falcon", "bloom"])
@pytest.mark.parametrize("batch_size", [1, 16])
def test_scores_are_those_of_one_choice_at_a_time(family, batch_size):
    model = tiny_model(family, layers=3, vocab_size=300)
    tokenizer = tiny_tokenizer(merges=(("a", "b"), ("Ġ", "a")), pad=False)
    scores = choice_scores(model, tokenizer, task(), batch_size, 64)
    for prompt, choices, row in zip(PROMPTS, CHOICES, scores, strict=True):
        expected = [naive_score(model, tokenizer, prompt, choice) for choice in choices]
        assert row == pytest.approx(expected, rel=1e-5)


def test_accuracy_counts_the_rows_whose_completion_scores_highest():
    model, tokenizer = tiny_model(layers=3, vocab_size=300), tiny_tokenizer()
    best = [
        max(c, key=lambda one: naive_score(model, tokenizer, p, one))
        for p, c in zip(PROMPTS, CHOICES, strict=True)
    ]
    other = next(choice for choice in CHOICES[0] if choice != best[0])
    measured = choice_accuracy(model, tokenizer, task(completions=[other, *best[1:]]), 16, 64)
    assert (measured.dataset, measured.metric, measured.value, measured.n) == ("task", "accuracy", 0.75, 4)
    assert measured.stderr == pytest.approx((0.75 * 0.25 / 3) ** 0.5)


def test_choices_that_begin_alike_share_one_input():
    inputs = _shared_inputs(7, [1, 2], [[3], [3, 4], [3, 4, 5], [6, 7]])
    assert [(one.row, one.ids, one.choices) for one in inputs] == [
        (7, [1, 2, 3, 4], [2, 1, 0]),
        (7, [1, 2, 6], [3]),
    ]
    assert inputs[0].positions == [1, 2, 3, 1, 2, 1]
    assert inputs[0].targets == [3, 4, 5, 3, 4, 3]


def test_a_long_prompt_loses_its_beginning_but_not_bos():
    model, tokenizer = tiny_model(layers=2, vocab_size=300), tiny_tokenizer()
    long = task(["x" * 100 + "abc"], [" d"], [[" d", " ef"]])
    cut = task(["x" * 6 + "abc"], [" d"], [[" d", " ef"]])  # 1 + 9 + 3 tokens, the last of which is not read
    assert choice_scores(model, tokenizer, long, 4, 12) == choice_scores(model, tokenizer, cut, 4, 64)


def test_majority_is_the_best_constant_guess():
    same = task(["p"] * 4, ["b", "b", "a", "b"], [["a", "b"]] * 4)
    assert majority(same) == 0.75
    unlike = task(["p"] * 4, ["a", "b", "c", "f"], [["a", "x"], ["b", "x"], ["c", "x"], ["x", "f"]])
    assert majority(unlike) == 0.75  # always the first place
