import datasets
import pytest

from depthprune.data.examples import Examples
from depthprune.data.split import rows_in_both, split_off, spread
from depthprune.errors import UserError


def texts(values: list[str]) -> Examples:
    return Examples("news", "news.jsonl", "text", datasets.Dataset.from_dict({"text": values}))


def test_parts_are_disjoint_complete_and_seeded():
    examples = texts([f"row {i}" for i in range(50)])
    train, held_out = split_off(examples, seed=1)
    assert len(held_out.rows) == 5
    assert sorted([*train.rows["text"], *held_out.rows["text"]]) == sorted(examples.rows["text"])
    assert split_off(examples, seed=1)[1].rows["text"][:] == held_out.rows["text"][:]
    assert split_off(examples, seed=2)[1].rows["text"][:] != held_out.rows["text"][:]
    assert (train.name, held_out.name, held_out.source) == ("news", "news (held-out)", "news.jsonl")


def test_rows_that_are_alike_stay_together():
    train, held_out = split_off(texts([f"row {i % 20}" for i in range(60)]), seed=0, size=12)
    assert len(held_out.rows) == 12
    assert not set(train.rows["text"]) & set(held_out.rows["text"])


def test_same_prompt_with_another_answer_stays_together():
    turns = [[{"role": "user", "content": str(i // 2)}] for i in range(20)]
    rows = datasets.Dataset.from_dict({"prompt": turns, "completion": [str(i) for i in range(20)]})
    train, held_out = split_off(Examples("chat", "chat", "messages", rows), seed=0, size=4)
    prompts = [{str(prompt) for prompt in part.rows["prompt"]} for part in (train, held_out)]
    assert not prompts[0] & prompts[1]
    assert len(held_out.rows) == 4


def test_default_size_has_a_floor_and_a_ceiling():
    assert len(split_off(texts(["a", "b"]), seed=0)[1].rows) == 1
    assert len(split_off(texts([str(i) for i in range(20_000)]), seed=0)[1].rows) == 1000


@pytest.mark.parametrize(
    ("values", "size"), [(["a"], None), (["a"] * 9, None), (["a", "b"], 2), (["a", "b"], 0)]
)
def test_too_few_rows(values, size):
    with pytest.raises(UserError, match=r"news\.jsonl: \d rows, \d of them different, are too few"):
        split_off(texts(values), seed=0, size=size)


def test_spread_reaches_from_end_to_end():
    assert spread(10, 5) == [0, 2, 4, 6, 8]
    assert spread(3, 5) == [0, 1, 2]


def test_rows_in_both_are_counted_but_for_white_space():
    assert rows_in_both(texts(["a b", "c"]), texts(["a  b\n", "d", "c", "c"])) == 3
    answers = {"prompt": ["p ", "q"], "completion": ["c", "d"]}
    moved = {"prompt": ["p", "q", "p"], "completion": [" c", "e", "c"], "choices": [["a", "b"]] * 3}
    pairs = [
        Examples("x", "x", "prompt-completion", datasets.Dataset.from_dict(columns))
        for columns in (answers, moved)
    ]
    assert rows_in_both(*pairs) == 1
    assert rows_in_both(pairs[0], texts(["p c", "qd"])) == 2
    asked, said = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}
    chats = [
        Examples("x", "x", "messages", datasets.Dataset.from_list([{"prompt": [one], "completion": [said]}]))
        for one in (asked, dict(reversed(asked.items())), said)
    ]
    assert [rows_in_both(chats[0], other) for other in chats] == [1, 1, 0]
