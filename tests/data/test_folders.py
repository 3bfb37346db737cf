import gzip
import json
import logging

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depthprune.data.folders import read_folder
from depthprune.data.splits import FOR_EVALUATION
from depthprune.errors import UserError


def fill(folder, *names):
    """Files each of one row, whose text is the file's own name in the folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"text": name})
        if name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist([{"text": name}]), path)
        elif name.endswith(".gz"):
            path.write_bytes(gzip.compress(line.encode()))
        else:
            path.write_text(line if ".json" in name else name)
    return folder


def read(folder, *splits):
    asked = {"asked": True, "splits": splits} if splits else {}
    return [row["text"] for _, row in read_folder(folder, **asked)]


def test_folder_never_mixes_the_test_set_into_the_training_set(tmp_path):
    fill(tmp_path, "train-00000.jsonl", "train-00001.jsonl", "test.jsonl", "README.md")
    assert read(tmp_path) == ["train-00000.jsonl", "train-00001.jsonl"]
    assert read(tmp_path, "test") == ["test.jsonl"]
    assert [row["text"] for _, row in read_folder(tmp_path, FOR_EVALUATION)] == ["test.jsonl"]
    with pytest.raises(UserError, match="no split 'validation'; there: test, train"):
        read(tmp_path, "validation")


def test_shards_and_folders_of_a_dataset_from_the_hub(tmp_path):
    shards = [f"data/{split}-0000{i}-of-00002.parquet" for split in ("test", "train") for i in range(2)]
    fill(tmp_path, *shards, "README.md", ".gitattributes", "dataset_infos.json", ".cache/x.json")
    assert read(tmp_path) == shards[2:]
    assert read(tmp_path, "test") == shards[:2]


def test_folders_named_for_splits(tmp_path):
    fill(tmp_path, "train/a.jsonl", "train/b.jsonl.gz", "dev/a.jsonl", "testing/a.parquet")
    assert read(tmp_path) == ["train/a.jsonl", "train/b.jsonl.gz"]
    assert read(tmp_path, "validation") == read(tmp_path, "dev") == ["dev/a.jsonl"]
    assert read(tmp_path, "test") == ["testing/a.parquet"]


def test_like_names_of_shards_are_splits_of_their_own(tmp_path):
    fill(tmp_path, "data/train_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet")
    with pytest.raises(UserError, match="no split 'train'; there: train_gen, train_sft"):
        read(tmp_path)
    assert read(tmp_path, "train_sft") == ["data/train_sft-00000-of-00001.parquet"]


def test_everything_is_read_where_no_name_speaks_of_splits(tmp_path):
    names = ["a.txt", "b.jsonl", "c.jsonl.gz", "deep/er/d.parquet"]
    fill(tmp_path, *reversed(names), "LICENSE.txt", "requirements.txt", "_SUCCESS")
    assert read(tmp_path) == names
    with pytest.raises(UserError, match="no file of the split 'test'"):
        read(tmp_path, "test")


def test_what_is_passed_over_is_named(tmp_path, caplog):
    fill(
        tmp_path,
        "train.jsonl",
        "train.csv",
        "train.jsonl.gz",
        "extra.jsonl",
        "images/a.png",
        "b.pdf",
        "test.jsonl",
    )
    with caplog.at_level(logging.INFO, "depthprune"):
        assert read(tmp_path) == ["train.jsonl"]
    said = "\n".join(caplog.messages)
    assert "reads the split train; also there: test" in said
    assert "no split in their names: extra.jsonl" in said
    assert "of no kind that is read: b.pdf, images/a.png" in said
    assert "the same name in another format: train.csv, train.jsonl.gz" in said


def test_an_empty_file_is_named(tmp_path, caplog):
    fill(tmp_path, "a.jsonl")
    (tmp_path / "b.jsonl").write_text("")
    with caplog.at_level(logging.WARNING, "depthprune"):
        assert read(tmp_path) == ["a.jsonl"]
    assert caplog.messages == [f"{tmp_path / 'b.jsonl'}: no rows in it"]


def test_saved_datasets_inside_a_folder(tmp_path):
    table = datasets.Dataset.from_dict({"text": ["a", "b"]})
    table.save_to_disk(tmp_path / "train")
    table.select([1]).save_to_disk(tmp_path / "test")
    (tmp_path / "train" / "cache-123.arrow").write_bytes(b"left by map")
    assert read(tmp_path) == ["a", "b"]
    assert read(tmp_path, "test") == ["b"]
    (tmp_path / "train" / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"train: not a readable dataset of save_to_disk"):
        read(tmp_path)


def test_a_folder_of_several_datasets_is_not_mixed(tmp_path):
    fill(tmp_path, "de/train.jsonl", "en/train.jsonl")
    front = (
        "---\nconfigs:\n- config_name: de\n  data_dir: de\n- config_name: en\n  data_dir: en\n---\n# Both\n"
    )
    (tmp_path / "README.md").write_text(front)
    with pytest.raises(UserError, match=r"holds 2 datasets, as its README\.md says \(de, en\)"):
        read(tmp_path)
    assert read(tmp_path / "de") == ["de/train.jsonl"]


def test_folder_without_data(tmp_path):
    fill(tmp_path, "README.md", "notes.docx")
    with pytest.raises(UserError, match="no data file"):
        read(tmp_path)
