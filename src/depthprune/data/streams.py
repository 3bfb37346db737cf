"""Opening the user's files: compressed or not, with what goes wrong said in a line."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from depthprune.errors import UserError


def _arrow(codec: str) -> Callable[[Path], IO[bytes]]:
    def opened(path: Path) -> IO[bytes]:
        return io.BytesIO(pa.CompressedInputStream(pa.OSFile(str(path)), codec).read())

    return opened


# Python 3.11 has no zstd of its own, and pyarrow is there for `datasets`.
COMPRESSED: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _arrow("zstd"),
    ".lz4": _arrow("lz4"),
}


def uncompressed_name(path: Path) -> Path:
    """`path` without the suffix of its compression."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The content of a file, decompressed; what fails while it is read is a `UserError` too."""
    decompress = COMPRESSED.get(path.suffix.lower())
    try:
        with decompress(path) if decompress else path.open("rb") as stream:
            yield stream
    except (EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise UserError(f"{path}: damaged or cut off ({_reason(error)}); copy it again") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({_reason(error)})") from error


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file and their numbers from 1.

    They end at "\\n" alone: str.splitlines also cuts at U+2028 and others that JSON allows inside a string.
    """
    with opened(path) as stream:
        for number, line in enumerate(stream, start=1):
            yield number, _decoded(line, f"{path} line {number}")


def read_text(path: Path) -> str:
    """A UTF-8 file's text, with or without a byte order mark, its line ends as they are."""
    with opened(path) as stream:
        return _decoded(stream.read(), str(path))


def _decoded(content: bytes, where: str) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{where}: UTF-16 text; save the file as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
