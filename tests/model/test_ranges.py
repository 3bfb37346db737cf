"""Every way of copying a range copies that range, whatever the ways before it could not do."""

import os
import random

import pytest

from depthprune.model.ranges import BUFFER, WAYS, by_reading, copy_range

CONTENT = random.Random(0).randbytes(3 * BUFFER + 5)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "source").write_bytes(CONTENT)
    source = os.open(tmp_path / "source", os.O_RDONLY)
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield source, target
    os.close(source)
    os.close(target)


def written(target) -> bytes:
    return os.pread(target, 10 * len(CONTENT), 0)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("start", "length"), [(0, len(CONTENT)), (7, 2 * BUFFER + 1), (3, 0), (len(CONTENT) - 1, 1)]
)
def test_each_way_copies_the_range_behind_what_is_there(files, way, start, length):
    source, target = files
    os.write(target, b"head")
    copy_range(source, start, length, target, [way])
    os.write(target, b"tail")
    assert written(target) == b"head" + CONTENT[start : start + length] + b"tail"


def refuses(*args) -> int:
    raise OSError("this file system cannot")


def test_a_way_that_stops_midway_is_taken_over_from(files):
    source, target = files
    calls = []

    def gives_up(source, start, length, target):
        calls.append(start)
        return by_reading(source, start, min(length, 1000), target) if len(calls) < 3 else refuses()

    def copies_nothing(*args):
        return 0

    copy_range(source, 1, len(CONTENT) - 1, target, [refuses, gives_up, copies_nothing, by_reading])
    assert calls == [1, 1001, 2001]
    assert written(target) == CONTENT[1:]


@pytest.mark.parametrize("way", WAYS)
def test_a_source_that_ends_before(files, way):
    source, target = files
    with pytest.raises(EOFError):
        copy_range(source, 10, len(CONTENT), target, [way, by_reading])


def test_what_the_last_way_says_is_raised(files):
    source, _ = files
    with pytest.raises(OSError, match="Bad file descriptor"):
        copy_range(source, 0, 10, os.open(os.devnull, os.O_RDONLY))
