import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depthprune.data.files import read_file, read_folder
from depthprune.errors import UserError

ROWS = [
    {"prompt": "a, “b”\u2028c", "completion": "1"},
    {"prompt": 'two\nlines "q"', "completion": "0.50"},
]


def write(path: Path, rows: list[dict] = ROWS) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    elif path.suffix == ".csv":
        quoted = [",".join('"' + value.replace('"', '""') + '"' for value in row.values()) for row in rows]
        path.write_text("\r\n".join([",".join(rows[0]), *quoted]), encoding="utf-8-sig")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    path = write(tmp_path / f"data{suffix}")
    assert [row for _, row in read_file(path)] == ROWS
    assert list(tmp_path.iterdir()) == [path]  # nothing is left beside the user's file


def test_json_lines_under_the_suffix_json(tmp_path):
    path = write(tmp_path / "data.jsonl").rename(tmp_path / "data.json")
    assert [row for _, row in read_file(path)] == ROWS


def test_text_file_is_one_document(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("one\n\ntwo\n")
    assert list(read_file(path)) == [(str(path), {"text": "one\n\ntwo\n"})]


def test_rows_say_where_they_stand(tmp_path):
    path = write(tmp_path / "data.jsonl")
    assert [where for where, _ in read_file(path)] == [f"{path} line 1", f"{path} line 3"]


def test_csv_field_longer_than_pythons_own_limit(tmp_path):
    path = write(tmp_path / "data.csv", [{"text": "x" * 200_000}])
    assert [len(row["text"]) for _, row in read_file(path)] == [200_000]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', "a.jsonl line 2: not valid JSON"),
        ("a.jsonl", b'{"text": "x"}\n["x"]\n', "a.jsonl line 2: of type list, not an object"),
        ("a.json", b'[{"text": "x"},\n {"text": }]', "line 2 column 11"),
        ("a.json", b'[{"text": "x"}, 3]', "a.json row 2: of type int"),
        ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl line 1: holds a lone surrogate escape"),
        ("a.csv", b"prompt,completion\na,b,c\n", "a.csv row 1: not as many fields"),
        ("a.csv", b"prompt,completion\na\n", "a.csv row 1: not as many fields"),
        ("a.csv", b'prompt,completion\na,"b\n', "not valid CSV"),
        ("a.parquet", b"PAR1 torn", "not a readable Parquet file"),
        ("a.txt", b"caf\xe9", "not UTF-8 text"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        list(read_file(tmp_path / name))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_folder_never_mixes_the_test_set_into_the_training_set(tmp_path):
    for name in ("train-00000.jsonl", "train-00001.jsonl", "test.jsonl", "README.md"):
        (tmp_path / name).write_text(json.dumps({"text": name}))
    assert [row["text"] for _, row in read_folder(tmp_path, None)] == [
        "train-00000.jsonl",
        "train-00001.jsonl",
    ]
    assert [row["text"] for _, row in read_folder(tmp_path, "test")] == ["test.jsonl"]
    with pytest.raises(UserError, match=r"no file of the split 'validation' \(there: test, train\)"):
        list(read_folder(tmp_path, "validation"))


def test_folder_without_split_names_is_read_whole(tmp_path):
    for name in ("b.txt", "a.txt"):
        (tmp_path / name).write_text(name)
    assert [row["text"] for _, row in read_folder(tmp_path, None)] == ["a.txt", "b.txt"]


def test_folder_without_data(tmp_path):
    with pytest.raises(UserError, match="no data file"):
        list(read_folder(tmp_path, None))
