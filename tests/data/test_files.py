import bz2
import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from depthprune.data.files import read_file
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
        ("a.jsonl", b'{"text": "x"}\n{"text": "caf\xe9"}\n', "a.jsonl line 2: not UTF-8 text"),
        ("a.csv", "text\nx".encode("utf-16"), "UTF-16 text; save the file as UTF-8"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl line 1: not valid JSON"),
        ("a.json", b'{"text": "x"}\n{"text": }\n', "a.json line 2: not valid JSON"),
        ("a.jsonl.gz", b'{"text": "x"}\n', "a.jsonl.gz: cannot be read"),
    ],
)
def test_unreadable_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        list(read_file(tmp_path / name))
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("opener", [gzip.open, bz2.open, lzma.open, "zstd", "lz4"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_compressed_files_give_the_same_rows(tmp_path, opener, suffix):
    plain = write(tmp_path / f"data{suffix}")
    ends = {gzip.open: ".gz", bz2.open: ".bz2", lzma.open: ".xz", "zstd": ".zst", "lz4": ".lz4"}
    path = plain.with_name(plain.name + ends[opener])
    if isinstance(opener, str):
        with pa.CompressedOutputStream(str(path), opener) as stream:
            stream.write(plain.read_bytes())
    else:
        with opener(path, "wb") as stream:
            stream.write(plain.read_bytes())
    assert [row for _, row in read_file(path)] == ROWS
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(
        UserError, match=r"damaged or cut off|cannot be read|not a readable|not valid"
    ) as error:
        list(read_file(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv"])
def test_byte_order_marks_and_line_ends_of_windows(tmp_path, suffix):
    path = tmp_path / f"data{suffix}"
    mark = "\t" if suffix == ".tsv" else ","
    content = f'prompt{mark}completion\r\n"a, b"{mark}c\r\n'
    if "json" in suffix:
        content = '{"prompt": "a, b", "completion": "c"}\r\n'
    path.write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert [row for _, row in read_file(path)] == [{"prompt": "a, b", "completion": "c"}]


def test_arrow_files_in_both_formats(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    for opened in (pa.ipc.new_stream, pa.ipc.new_file):
        with opened(str(tmp_path / "a.arrow"), table.schema) as writer:
            writer.write_table(table)
        assert [row for _, row in read_file(tmp_path / "a.arrow")] == ROWS
    (tmp_path / "a.arrow").write_bytes(b"torn")
    with pytest.raises(UserError, match="not a readable Arrow file"):
        list(read_file(tmp_path / "a.arrow"))


def test_a_typed_table_gives_no_object_the_keys_of_another(tmp_path):
    calls = [{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {"b": 2}}]
    path = write(tmp_path / "a.parquet", [{"calls": [call], "id": None} for call in calls])
    assert [row for _, row in read_file(path)] == [{"calls": [call], "id": None} for call in calls]


def test_a_file_that_may_not_be_read(tmp_path):
    with pytest.raises(UserError, match=r"a\.jsonl: cannot be read"):
        list(read_file(tmp_path / "a.jsonl"))
