import json
import logging
from pathlib import Path

import datasets
import pytest

from depthprune.data.examples import load_examples
from depthprune.errors import UserError


def write(path: Path, *rows: dict) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_examples_know_their_name_source_kind_and_columns(tmp_path):
    row = {"prompt": "p", "completion": "a", "choices": ["a", "b"]}
    path = write(tmp_path / "news.jsonl", {**row, "id": 1}, {**row, "completion": "b"})
    examples = load_examples(path)
    assert (examples.name, examples.source, examples.kind) == ("news", str(path), "prompt-completion")
    assert examples.rows.column_names == ["prompt", "completion", "choices"]
    assert examples.has_choices
    assert examples.rows[0] == row


def test_messages(tmp_path):
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    examples = load_examples(write(tmp_path / "chat.jsonl", {"messages": turns}))
    assert (examples.kind, examples.rows[0]) == ("messages", {"prompt": turns[:1], "completion": turns[1:]})


def test_a_changed_file_is_read_anew_and_nothing_is_left_behind(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": "old"})
    assert load_examples(path).rows["text"][:] == ["old"]
    write(path, {"text": "new"})
    assert load_examples(path).rows["text"][:] == ["new"]
    assert load_examples(path).rows.cache_files == []
    assert list(tmp_path.iterdir()) == [path]


def test_folder_and_its_splits(tmp_path):
    write(tmp_path / "train.jsonl", {"text": "train"})
    write(tmp_path / "test.jsonl", {"text": "test"})
    assert load_examples(tmp_path).rows["text"][:] == ["train"]
    assert load_examples(f"{tmp_path}:test").rows["text"][:] == ["test"]
    assert load_examples(tmp_path, split="test").rows["text"][:] == ["test"]


def test_splits_under_the_keys_of_a_file(tmp_path):
    path = tmp_path / "all.json"
    path.write_text(json.dumps({"train": [{"text": "train"}], "test": [{"text": "test"}]}))
    assert load_examples(path).rows["text"][:] == ["train"]
    assert load_examples(f"{path}:test").rows["text"][:] == ["test"]
    assert load_examples(path, preferred=("test", "train")).rows["text"][:] == ["test"]


def test_what_is_not_used_is_said(tmp_path, caplog):
    path = write(tmp_path / "a.jsonl", {"content": "t", "url": "u"})
    with caplog.at_level(logging.INFO, "depthprune"):
        load_examples(path)
    assert caplog.messages == [f"{path}: `content` is read as the text", f"{path}: columns not used: `url`"]


def test_chats_of_unlike_shapes_stay_as_they_are(tmp_path):
    asked = {"role": "user", "content": "u", "name": "Ann"}
    calls = [
        {"function": {"name": "f", "arguments": arguments}}
        for arguments in ({"a": 1, "b": None}, {"a": [{}]}, {})
    ]
    rows = [{"messages": [asked, {"role": "assistant", "tool_calls": [call]}]} for call in calls]
    rows[1]["tools"] = [{"type": "function", "function": {"name": "f", "strict": True}}]
    loaded = load_examples(write(tmp_path / "a.jsonl", *rows))
    assert [[*row["prompt"], *row["completion"]] for row in loaded.rows] == [row["messages"] for row in rows]
    assert loaded.rows["tools"][:] == [None, rows[1]["tools"], None]
    part = loaded.select([2, 1])
    assert part.place(0) == f"{tmp_path / 'a.jsonl'} line 3"
    assert part.rows[1] == loaded.rows[1]


def test_saved_datasets(tmp_path):
    whole = datasets.Dataset.from_dict({"text": ["a", "b"], "extra": [1, 2]})
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=whole, test=whole.select([1])).save_to_disk(tmp_path / "two")
    assert load_examples(tmp_path / "one").rows["text"][:] == ["a", "b"]
    assert load_examples(tmp_path / "two").rows["text"][:] == ["a", "b"]
    assert load_examples(f"{tmp_path / 'two'}:test").rows["text"][:] == ["b"]
    with pytest.raises(UserError, match="no split 'validation'; there: train, test"):
        load_examples(tmp_path / "two", split="validation")


@pytest.mark.parametrize(
    "source", ["missing.jsonl", "missing", "{tmp}/there.txt:test", "./missing/folder", "{tmp}/missing"]
)
def test_missing_file(tmp_path, source):
    (tmp_path / "there.txt").write_text("a file has no splits")
    with pytest.raises(UserError, match="no such file or folder"):
        load_examples(source.format(tmp=tmp_path))


def test_hub_out_of_reach():  # the tests run without a hub
    with pytest.raises(UserError, match=r"nobody/nothing: no such file or folder here.*hub") as error:
        load_examples("nobody/nothing")
    assert "\n" not in str(error.value)


def test_unknown_suffix(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(UserError, match=r"unknown kind of file; wanted \.jsonl"):
        load_examples(tmp_path / "a.xlsx")


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", ""), ("a.json", "[]"), ("a.csv", "text\n"), ("a.txt", "\n")]
)
def test_empty_dataset(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match="no rows"):
        load_examples(tmp_path / name)


def test_one_class(tmp_path):
    row = {"prompt": "p", "completion": " a", "choices": [" a", " b"]}
    with pytest.raises(UserError, match="one class only: every completion is ' a'"):
        load_examples(write(tmp_path / "a.jsonl", row, {**row, "prompt": "q"}))
