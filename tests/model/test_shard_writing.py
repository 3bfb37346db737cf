"""What is written holds the bytes of its sources, told by a reader that knows no more than the format."""

import json
import struct

import pytest
from safetensors import safe_open

from depthprune.errors import UserError
from depthprune.model.shard_writing import pieces_of, write_shards
from depthprune.model.shards import read_shard, read_shards

WIDTHS = {"F64": 8, "F32": 4, "BF16": 2, "U8": 1, "F8_E4M3": 1}


def make(path, tensors, metadata=None):
    """Writes name → (dtype, elements) in this order; returns name → bytes."""
    header, data, contents = {"__metadata__": metadata} if metadata else {}, b"", {}
    for name, (dtype, elements) in tensors.items():
        contents[name] = bytes((len(data) + 7 * i + len(name)) % 251 for i in range(elements * WIDTHS[dtype]))
        header[name] = {
            "dtype": dtype,
            "shape": [elements],
            "data_offsets": [len(data), len(data) + len(contents[name])],
        }
        data += contents[name]
    names = sorted(header, key=hash)  # a header's order says nothing
    encoded = json.dumps({name: header[name] for name in names}).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)
    return contents


def read(path):
    """(name → bytes, metadata) of a safetensors file; every byte belongs to one tensor, in its place."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    metadata, end, found = header.pop("__metadata__", None), 0, {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        assert begin == end and (8 + length + begin) % WIDTHS[entry["dtype"]] == 0, name
        assert stop - begin == entry["shape"][0] * WIDTHS[entry["dtype"]]
        found[name], end = raw[8 + length + begin : 8 + length + stop], stop
    assert 8 + length + end == len(raw)
    return found, metadata


def same(name):
    return name


def test_every_tensor_keeps_its_bytes_under_its_new_name(tmp_path):
    tensors = {f"t{i}": ("BF16", 10 * i) for i in (3, 1, 0, 2, 4, 5)}
    contents = make(tmp_path / "model.safetensors", tensors, {"format": "pt"})
    (tmp_path / "out").mkdir()
    pieces = pieces_of(read_shards(tmp_path), {"t0": "none", "t2": "a", "t3": "b", "t5": "last.of.all"}.get)
    write_shards(pieces, tmp_path / "out")
    found, metadata = read(tmp_path / "out" / "model.safetensors")
    assert found == {"b": contents["t3"], "none": b"", "a": contents["t2"], "last.of.all": contents["t5"]}
    assert metadata == {"format": "pt"}
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]


def test_numbers_of_several_widths_lie_aligned(tmp_path):
    first = make(tmp_path / "a", {"a": ("U8", 3), "b": ("BF16", 5), "c": ("F32", 3), "d": ("F8_E4M3", 1)})
    second = make(tmp_path / "b", {"e": ("F64", 1), "f": ("BF16", 1), "g": ("F32", 0), "h": ("F32", 7)})
    (tmp_path / "out").mkdir()
    write_shards(pieces_of([read_shard(tmp_path / "a"), read_shard(tmp_path / "b")], same), tmp_path / "out")
    found, metadata = read(tmp_path / "out" / "model.safetensors")
    assert found == first | second and metadata is None
    with safe_open(tmp_path / "out" / "model.safetensors", "np") as file:
        assert set(file.keys()) == found.keys()


FILLED = {
    1: [50, 50, 50, 50, 50, 700, 100, 1],
    100: [100, 100, 50, 700, 100, 1],
    101: [100, 100, 50, 700, 101],
    199: [150, 100, 700, 101],
    250: [250, 700, 101],
    1000: [950, 101],
    10_000: [1051],
}


@pytest.mark.parametrize("largest", FILLED)
def test_files_are_filled_up_to_the_limit(tmp_path, largest):
    contents = make(tmp_path / "1", {f"a{i}": ("U8", 50) for i in range(5)})
    contents |= make(tmp_path / "2", {"b": ("U8", 700), "c": ("BF16", 50), "d": ("U8", 1)})
    (tmp_path / "out").mkdir()
    shards = [read_shard(tmp_path / "1"), read_shard(tmp_path / "2")]
    write_shards(pieces_of(shards, same), tmp_path / "out", largest)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    parts = [read(file)[0] for file in files]
    assert {name: data for part in parts for name, data in part.items()} == contents
    assert [sum(map(len, part.values())) for part in parts] == FILLED[largest]
    if len(files) > 1:
        count = len(files)
        assert [file.name for file in files] == [
            f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)
        ]
        index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
        where = {name: file.name for file, part in zip(files, parts, strict=True) for name in part}
        assert index == {"metadata": {"total_size": 1051}, "weight_map": where}
        assert len(read_shards(tmp_path / "out")) == count  # as everyone else reads it


def test_metadata_of_the_sources_come_together(tmp_path):
    make(tmp_path / "1", {"a": ("U8", 5)}, {"format": "pt", "of": "one"})
    make(tmp_path / "2", {"b": ("U8", 5)}, {"of": "two", "more": "x"})
    (tmp_path / "out").mkdir()
    write_shards(pieces_of([read_shard(tmp_path / "1"), read_shard(tmp_path / "2")], same), tmp_path / "out")
    assert read(tmp_path / "out" / "model.safetensors")[1] == {"format": "pt", "of": "one", "more": "x"}


def test_a_source_that_was_cut_short_since_its_header_was_read(tmp_path):
    make(tmp_path / "model.safetensors", {"a": ("U8", 500)})
    shards = read_shards(tmp_path)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(300)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=r"model.safetensors is torn"):
        write_shards(pieces_of(shards, same), tmp_path / "out")
