"""What is copied ahead is what the examination finds, or makes way for it."""

import threading

import pytest
from tiny import FAMILIES, tiny_model

from depthprune.model.ahead import copying_ahead, likely_pieces
from depthprune.model.config_file import read_config_file
from depthprune.model.cutting import cut_of
from depthprune.model.shard_writing import Halted, pieces_of, write_shards
from depthprune.model.shards import read_shards


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_guess_is_right(family, tmp_path):
    tiny_model(family).save_pretrained(tmp_path)
    shards = read_shards(tmp_path)
    found = cut_of(tmp_path, shards, [1, 2, 4], False, None).pieces
    assert likely_pieces(read_config_file(tmp_path), shards, [1, 2, 4]) == found


@pytest.mark.parametrize("layers", [[6], [-1], [0, 1, 2, 3, 4, 5], [0, 9]])
def test_no_guess_for_layers_that_are_not_there_or_all_there_are(layers, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert likely_pieces(read_config_file(tmp_path), read_shards(tmp_path), layers) == []


@pytest.fixture
def cuts(tmp_path):
    """The tensors of two cuts of a model, and what writing each of them alone gives."""
    tiny_model().save_pretrained(tmp_path / "whole")
    shards = read_shards(tmp_path / "whole")
    one = pieces_of(shards, lambda name: None if ".layers.1." in name else name)
    other = pieces_of(shards, lambda name: None if ".layers.2." in name else name)
    for name, pieces in (("one", one), ("other", other), ("out", [])):
        (tmp_path / name).mkdir()
        write_shards(pieces, tmp_path / name)
    return one, other


def test_what_was_guessed_is_kept_and_what_was_not_is_replaced(cuts, tmp_path):
    one, other = cuts
    with copying_ahead(one, tmp_path / "out") as copying:
        copying.settle(list(one))
    assert contents(tmp_path / "out") == contents(tmp_path / "one")
    with copying_ahead(one, tmp_path / "out") as copying:
        copying.settle(other)
    assert contents(tmp_path / "out") == contents(tmp_path / "other")
    with copying_ahead([], tmp_path / "out") as copying:
        copying.settle(one)
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


def test_a_refusal_stops_the_copying_and_a_fault_of_the_copying_does_not_hide_it(cuts, tmp_path):
    before = threading.active_count()
    for folder in (tmp_path / "out", tmp_path / "nowhere"):
        with pytest.raises(ZeroDivisionError), copying_ahead(cuts[0], folder):
            raise ZeroDivisionError
    assert threading.active_count() == before


def test_a_fault_of_the_copying_is_raised_where_its_result_is_wanted(cuts, tmp_path):
    with pytest.raises(FileNotFoundError), copying_ahead(cuts[0], tmp_path / "nowhere") as copying:
        copying.settle(cuts[0])


def test_what_is_halted_writes_no_tensor(cuts, tmp_path):
    halt = threading.Event()
    halt.set()
    with pytest.raises(Halted):
        write_shards(cuts[0], tmp_path / "out", halt=halt)
