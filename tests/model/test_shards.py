"""safetensors itself says which files it reads; ours are those, but for names that stand twice."""

import json
import shutil
import struct

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_model

from depthprune.errors import UserError
from depthprune.model.checkpoint import prune_files
from depthprune.model.loading import load_model
from depthprune.model.shards import INDEX, SINGLE, read_shard, read_shards

DATA = bytes(range(8))


def tensor(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


READABLE = {
    "plain": ({"a": tensor()}, DATA),
    "nothing in it": ({}, b""),
    "metadata": ({"__metadata__": {"format": "pt"}, "a": tensor()}, DATA),
    "metadata null": ({"__metadata__": None, "a": tensor()}, DATA),
    "another field": ({"a": tensor(x=1)}, DATA),
    "scalar": ({"a": tensor(shape=[], offsets=[0, 4])}, DATA[:4]),
    "no elements first": ({"a": tensor(shape=[0], offsets=[0, 0]), "b": tensor()}, DATA),
    "no elements last": ({"b": tensor(), "a": tensor(shape=[0, 5], offsets=[8, 8])}, DATA),
    "another order": ({"b": tensor(offsets=[8, 16]), "a": tensor()}, DATA * 2),
    "fp8": ({"a": tensor("F8_E4M3", [8])}, DATA),
    "fp4": ({"a": tensor("F4", [16])}, DATA),
    "complex": ({"a": tensor("C64", [1])}, DATA),
    "an empty name": ({"": tensor()}, DATA),
}
REFUSED = {
    "overlap": ({"a": tensor(), "b": tensor(offsets=[4, 12])}, DATA + DATA[:4]),
    "the same bytes": ({"a": tensor(), "b": tensor()}, DATA),
    "hole": ({"a": tensor(offsets=[4, 12])}, DATA + DATA[:4]),
    "negative": ({"a": tensor(offsets=[-8, 0])}, b""),
    "negative, in the header": ({"a": tensor(offsets=[-8, 0]), "b": tensor()}, DATA),
    "reversed": ({"a": tensor(offsets=[8, 0])}, DATA),
    "no elements inside": ({"b": tensor(), "a": tensor(shape=[0], offsets=[4, 4])}, DATA),
    "out of the file": ({"a": tensor(shape=[4], offsets=[0, 16])}, DATA),
    "trailing": ({"a": tensor()}, DATA + b"x"),
    "unknown dtype": ({"a": tensor("F33")}, DATA),
    "dtype of another case": ({"a": tensor("f32")}, DATA),
    "half bytes": ({"a": tensor("F4", [15], [0, 7])}, DATA[:7]),
    "shape of another size": ({"a": tensor(shape=[3])}, DATA),
    "shape too large": ({"a": tensor(shape=[2**63, 2**63, 0], offsets=[0, 0])}, b""),
    "shape beyond 64 bits": ({"a": tensor(shape=[10**30])}, DATA),
    "negative shape": ({"a": tensor(shape=[-1, -2])}, DATA),
    "shape a float": ({"a": tensor(shape=[2.0])}, DATA),
    "shape a string": ({"a": tensor(shape="2")}, DATA),
    "offsets booleans": ({"a": tensor("U8", [1], [False, True])}, b"1"),
    "three offsets": ({"a": tensor(offsets=[0, 8, 8])}, DATA),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, DATA),
    "metadata a number": ({"__metadata__": {"a": 1}, "a": tensor()}, DATA),
    "metadata a list": ({"__metadata__": ["a"], "a": tensor()}, DATA),
    "a list": ([], b""),
    "a number": (3, b""),
}  # fmt: skip
RAW = {
    "not UTF-8": b'{"\xff": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    "half a character": b'{"\\ud800": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    "deep": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep in a field": b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "x": '
    + b"[" * 1000
    + b"]" * 1000
    + b"}}",
    "a long number": b'{"a": {"dtype": "F32", "shape": [' + b"1" * 5000 + b'], "data_offsets": [0, 8]}}',
    "NaN": b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 8]}}',
    "padded with zeros": b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}\0',
    "a byte order mark": b'\xef\xbb\xbf{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    "UTF-16": '{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'.encode("utf-16"),
}
TWICE = {
    "tensor": b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, '
    b'"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
    "metadata": b'{"__metadata__": {"a": "b", "a": "c"}, '
    b'"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
}


def write(path, header, data, length=None):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded) if length is None else length) + encoded + data)
    return path


def refused(read, *args) -> str:
    with pytest.raises(UserError) as refusal:
        read(*args)
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 1000
    return str(refusal.value)


@pytest.mark.parametrize("kind", READABLE)
def test_what_safetensors_reads_is_read(tmp_path, kind):
    path = write(tmp_path / SINGLE, *READABLE[kind])
    with safe_open(path, "np") as file:
        assert read_shard(path).tensors.keys() == set(file.keys())


@pytest.mark.parametrize("kind", REFUSED)
def test_what_safetensors_refuses_is_refused(tmp_path, kind):
    path = write(tmp_path / SINGLE, *REFUSED[kind])
    with pytest.raises(SafetensorError):
        safe_open(path, "np")
    assert str(path) in refused(read_shard, path)


@pytest.mark.parametrize("kind", RAW)
def test_headers_that_are_no_json_are_refused(tmp_path, kind):
    path = write(tmp_path / SINGLE, RAW[kind], DATA)
    with pytest.raises(SafetensorError):
        safe_open(path, "np")
    assert str(path) in refused(read_shard, path)


@pytest.mark.parametrize("kind", TWICE)
def test_a_name_that_stands_twice_is_refused(tmp_path, kind):
    path = write(tmp_path / SINGLE, TWICE[kind], DATA)
    assert "twice" in refused(read_shard, path)


@pytest.mark.parametrize("length", [100, 10**8, 10**8 + 1, 10**12, 2**64 - 1])
def test_a_header_longer_than_the_file(tmp_path, length):
    path = write(tmp_path / SINGLE, {"a": tensor()}, DATA, length)
    with pytest.raises(SafetensorError):
        safe_open(path, "np")
    refused(read_shard, path)


@pytest.fixture
def sharded(tmp_path):
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder, max_shard_size="60KB")
    return folder


def change_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("where", ["../{}", "/tmp/{}", "sub/{}", "..", "", "sub\\{}", "a\0b"])
def test_an_index_that_leads_out_of_its_folder(sharded, where):
    def outside(weights):
        for name, file in weights.items():
            weights[name] = where.format(file)

    change_index(sharded, outside)
    assert "outside its folder" in refused(read_shards, sharded)


@pytest.mark.parametrize("value", [None, 1, ["model.safetensors"], {}])
def test_an_index_of_other_types(sharded, value):
    def other(weights):
        weights["model.norm.weight"] = value

    change_index(sharded, other)
    assert "cannot be read" in refused(read_shards, sharded)


@pytest.mark.parametrize("content", ["[]", "1", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000])
def test_an_index_that_is_none(sharded, content):
    (sharded / INDEX).write_text(content)
    assert "cannot be read" in refused(read_shards, sharded)


def test_a_tensor_that_lies_in_two_shards(sharded):
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    both = load_file(second) | dict(list(load_file(first).items())[:1])
    save_file(both, second, {"format": "pt"})
    assert "do not agree" in refused(read_shards, sharded)


def test_tensors_that_the_index_has_not_or_has_alone(sharded):
    change_index(sharded, lambda weights: weights.pop("model.norm.weight"))
    assert "do not agree about model.norm.weight" in refused(read_shards, sharded)


def test_the_hub_cache_links_to_its_files(sharded, tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0123"
    shutil.copytree(sharded, blobs)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted(blobs.iterdir())):
        blob = file.rename(blobs / f"{number:064d}")
        (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    assert len(read_shards(snapshot)) > 2
    prune_files(snapshot, [1], tmp_path / "cut")
    assert not any(file.is_symlink() for file in (tmp_path / "cut").iterdir())
    before, after = load_model(snapshot), load_model(tmp_path / "cut")
    assert torch.equal(before.model.layers[2].mlp.up_proj.weight, after.model.layers[1].mlp.up_proj.weight)
