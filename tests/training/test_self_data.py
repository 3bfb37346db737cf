import json

import datasets
import pytest
import torch
from tiny import tiny_model
from tuned import TOKENIZER, Killed, examples

from depthprune import UserError
from depthprune.data.examples import Examples, load_examples
from depthprune.data.tokens import encode_prompts
from depthprune.training import SelfData
from depthprune.training.self_data import answered_rows, check_prompts, write_answers

SMALL = SelfData(max_new_tokens=6, batch_size=1)


def model(**head):
    dense = tiny_model(layers=2, vocab_size=len(TOKENIZER))
    if head:  # only these tokens are ever written
        with torch.no_grad():
            dense.lm_head.weight.zero_()
            for token, row in head.items():
                dense.lm_head.weight[TOKENIZER.convert_tokens_to_ids(token)] = row
    return dense


def directions(count):
    return torch.randn(count, 32, generator=torch.Generator().manual_seed(3))


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(dense, asked, settings, length, seed, path):
    prompts = encode_prompts(asked, TOKENIZER)
    partial = path.with_suffix(".partial")
    return write_answers(dense, TOKENIZER, asked, prompts, settings, length, seed, partial, path)


def chat():
    turns = [[{"role": "user", "content": "hi " * n}] for n in range(1, 5)]
    rows = [{"prompt": prompt, "completion": "given"} for prompt in turns]
    return Examples("chat", "chat.jsonl", "messages", datasets.Dataset.from_list(rows))


@torch.no_grad()
def naive_greedy(dense, ids, steps):
    written = []
    while len(written) < steps and TOKENIZER.eos_token_id not in written:
        written.append(int(dense(torch.tensor([ids + written])).logits[0, -1].argmax()))
    return written


@pytest.mark.parametrize("asked", [examples(12), chat()])
def test_answers_are_what_the_model_writes_greedily_after_each_prompt(tmp_path, asked):
    eos, word = directions(2)
    dense = model(**{TOKENIZER.eos_token: eos, "x": word}) if asked.kind != "messages" else model()
    path = tmp_path / "self-data.jsonl"
    note = write(dense, asked, SMALL, 64, 0, path)
    prompts = encode_prompts(asked, TOKENIZER)
    expected = {i: naive_greedy(dense, ids, 6) for i, ids in enumerate(prompts)}
    with_text = [i for i, ids in expected.items() if TOKENIZER.decode(ids, skip_special_tokens=True).strip()]
    assert [row["row"] for row in lines(path)] == with_text
    assert with_text
    for row in lines(path):
        i = row["row"]
        assert row["input_ids"] == prompts[i] + expected[i]
        assert row["completion_mask"] == [0] * len(prompts[i]) + [1] * len(expected[i])
        assert row["finished"] == (expected[i][-1] == TOKENIZER.eos_token_id)
    blank = len(prompts) - len(with_text)
    assert (f"{blank} blank" in note) == (blank > 0)
    assert note.startswith(f"{len(with_text)} answers")
    assert answered_rows(path)["input_ids"] == [row["input_ids"] for row in lines(path)]


def test_some_answers_are_blank_and_some_end_in_the_test_above():
    eos, word = directions(2)
    dense = model(**{TOKENIZER.eos_token: eos, "x": word})
    written = [naive_greedy(dense, ids, 6) for ids in encode_prompts(examples(12), TOKENIZER)]
    kinds = {(TOKENIZER.eos_token_id in ids, len(ids) > 1) for ids in written}
    assert len(kinds) > 1


@pytest.mark.parametrize("asked", [examples(8), chat()])
def test_the_file_is_a_dataset_like_the_users_own(tmp_path, asked):
    write(model(), asked, SMALL, 64, 0, tmp_path / "self-data.jsonl")
    loaded = load_examples(tmp_path / "self-data.jsonl")
    assert loaded.kind == asked.kind
    assert loaded.rows["prompt"] == asked.rows["prompt"]
    assert loaded.rows["completion"] != asked.rows["completion"]


def test_tools_and_options_of_a_chat_stay_beside_its_answer(tmp_path):
    call = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    row = {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "1"},
            {"role": "assistant", "content": "given"},
        ],
        "tools": [tool],
        "chat_template_kwargs": {"brief": True},
    }
    (tmp_path / "chat.jsonl").write_text(json.dumps(row) + "\n")
    asked = load_examples(tmp_path / "chat.jsonl")
    write(model(), asked, SMALL, 128, 0, tmp_path / "self-data.jsonl")
    (line,) = lines(tmp_path / "self-data.jsonl")
    assert line["messages"][:3] == row["messages"][:3]
    assert (line["tools"], line["chat_template_kwargs"]) == (row["tools"], row["chat_template_kwargs"])
    again = load_examples(tmp_path / "self-data.jsonl")
    assert encode_prompts(again, TOKENIZER) == encode_prompts(asked, TOKENIZER)


def test_prompt_and_answer_share_the_length(tmp_path):
    path = tmp_path / "self-data.jsonl"
    write(model(x=torch.ones(32)), examples(8), SMALL, 9, 0, path)
    assert max(len(row["input_ids"]) for row in lines(path)) <= 9
    assert all(row["input_ids"][0] == TOKENIZER.bos_token_id for row in lines(path))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_killed_call_goes_on_and_draws_the_same(tmp_path, temperature):
    asked, dense = examples(60), model()
    settings = SelfData(max_new_tokens=6, batch_size=1, temperature=temperature)
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    torch.manual_seed(1)
    write(dense, asked, settings, 64, 5, whole)

    batches = []
    generate = type(dense).generate

    def dying(ids, **options):
        batches.append(len(ids))
        if len(batches) == 2:
            raise Killed
        return generate(dense, ids, **options)

    dense.generate = dying
    with pytest.raises(Killed):
        write(dense, asked, settings, 64, 5, killed)
    assert not killed.exists()
    with killed.with_suffix(".partial").open("a") as stream:
        stream.write("[[1, 2")  # torn
    torch.manual_seed(2)
    write(dense, asked, settings, 64, 5, killed)
    assert killed.read_text() == whole.read_text()
    assert sum(batches) - batches[1] == 60
    assert len(batches) > 3


def test_only_blank_answers(tmp_path):
    with pytest.raises(UserError, match=r"train\.jsonl: the model's answers to all 4 prompts are blank"):
        write(model(z=torch.zeros(32)), examples(4), SMALL, 64, 0, tmp_path / "a.jsonl")


def test_text_has_no_prompts():
    text = Examples("text", "text.txt", "text", datasets.Dataset.from_list([{"text": "a"}]))
    with pytest.raises(UserError, match=r"text\.txt: rows of `text` have no prompts") as refusal:
        check_prompts(text)
    assert "\n" not in str(refusal.value)
