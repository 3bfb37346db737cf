"""What the user is told: the one exception for wrong input, what the disk raises, text from outside."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class UserError(Exception):
    """Something in the user's input is wrong: one line that says what, where, and how to mend it.

    `cli` prints it to stderr and exits with code 2; the Python API lets it through.
    """


class DiskFault(UserError):
    """A file could not be read or written; the same call goes on once that is mended."""


_RIGHTS = "name a place that you may write, and files that you may read"
_SPACE = "free some space, then call again: it goes on from the last finished step"
_BUSY = "another program uses it: end that, then call again"
_FAILING = "the disk or its connection fails: check it, then call again"
_PLAIN = "name a plain file"
_MENDED_BY: dict[int | None, str] = {
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: "name another place",
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "name another place: this file system takes no files of that size",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.ELOOP: "mend the symbolic links, which run in a circle",
    errno.EISDIR: "there is a folder where a file should be: move it away",
    errno.ENOTDIR: "there is a file where a folder should be: move it away",
    errno.EEXIST: "move it away",
    errno.ENOENT: "it is not there, or was taken away: put it back, then call again",
    errno.ENOTEMPTY: _BUSY,
    errno.EBUSY: _BUSY,
    errno.ETXTBSY: _BUSY,
    errno.ENXIO: _PLAIN,
    errno.ENODEV: _PLAIN,
    errno.ESPIPE: _PLAIN,
    errno.EIO: _FAILING,
    errno.ESTALE: _FAILING,
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the limit of open files (ulimit -n)",
}
# How writers report a failed write that are not Python's own: safetensors, and torch.
_RUST = re.compile(r"\(os error (\d+)\)")
_TORCH = re.compile(r"PytorchStreamWriter failed|file write failed|unexpected pos \d+ vs")


def disk_fault(error: BaseException) -> DiskFault | None:
    """An error of the disk, of rights or of a path's kind, in one line; None for any other error."""
    if isinstance(error, OSError):
        if error.errno not in _MENDED_BY:
            return None
        return _fault(error.errno, error.filename2 or error.filename)
    said = str(error)
    if (found := _RUST.search(said)) and int(found[1]) in _MENDED_BY:
        return _fault(int(found[1]), None)
    if _TORCH.search(said):
        return DiskFault("a checkpoint cannot be written: check the disk and its free space, then call again")
    return None


def _fault(number: int | None, name: object) -> DiskFault:
    where = f"{os.fsdecode(name)}: " if isinstance(name, str | bytes | os.PathLike) else ""
    return DiskFault(f"{where}{os.strerror(number or 0).lower()}: {_MENDED_BY[number]}")


@contextmanager
def disk_faults_explained() -> Iterator[None]:
    """Inside the block what the disk raises is a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if fault := disk_fault(error):
            raise fault from error
        raise


# Control characters but tab and line feed, what turns the direction of text, other line ends, half letters.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: str) -> str:
    """`text` with what a terminal would obey written out, such as \\x1b; lines stay lines."""
    return OBEYED.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def plain_values(content: Any) -> Any:
    """As `plain`, for every string in lists and dictionaries."""
    if isinstance(content, dict):
        return {plain(str(key)): plain_values(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain_values(value) for value in content]
    return plain(content) if isinstance(content, str) else content
