"""Copying bytes from one file into another without reading them, where the system can."""

import os
import sys
from collections.abc import Callable, Sequence

BUFFER = 2**18
"""Bytes; Linux 6.18 takes several times as long with 1 MB and more, whose pages it wants in one piece."""

Way = Callable[[int, int, int, int], int]
"""Copies up to `length` bytes from `start` in `source` to where `target` stands; returns how many."""


def _by_reference_or_copy(source: int, start: int, length: int, target: int) -> int:
    """Shares the blocks of both files where the file system can, else copies inside the system."""
    return os.copy_file_range(source, target, length, offset_src=start)


def _by_sending(source: int, start: int, length: int, target: int) -> int:
    return os.sendfile(target, source, start, length)


def by_reading(source: int, start: int, length: int, target: int) -> int:
    """What every system can."""
    block = memoryview(os.pread(source, min(length, BUFFER), start))
    copied = len(block)
    while block:
        block = block[os.write(target, block) :]
    return copied


def _ways() -> list[Way]:
    ways: list[Way] = [by_reading]
    if sys.platform == "linux":
        ways[:0] = [_by_reference_or_copy, _by_sending]  # elsewhere sendfile takes no file for its target
    return ways


WAYS = _ways()


def copy_range(source: int, start: int, length: int, target: int, ways: Sequence[Way] = WAYS) -> None:
    """Copies from an open file to where another stands, in the first of the ways that works here.

    Raises EOFError where the source ends before, and OSError as the last of the ways does.
    """
    end = start + length
    for way in ways:
        while start < end:
            try:
                copied = way(source, start, end - start, target)
            except OSError:
                if way is ways[-1]:
                    raise
                break  # file systems say in many words that they cannot; the last way knows what is wrong
            if not copied:
                break  # the source's end, or a file system that copies nothing and says so to no one
            start += copied
    if start < end:
        raise EOFError
