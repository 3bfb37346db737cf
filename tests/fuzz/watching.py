"""What a call may not do, whatever it is given: take for ever, or write elsewhere than it was told."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHANGES = (
    "os.rename",
    "os.link",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "os.symlink",
    "os.chmod",
)
LONGEST = 20
"""Seconds for input of a few kilobytes, on a busy machine."""


class Hang(BaseException):
    """No `except Exception` on the way takes it for a fault of the file."""


class Outside(BaseException):
    """Something is written, or taken away, where nothing should be."""


_allowed: tuple[str, ...] | None = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if _allowed is None or not (event in CHANGES or (event == "open" and _writes(args))):
        return
    names = args[: 2 if event in ("os.rename", "os.link", "os.symlink") else 1]
    for name in names:
        if isinstance(name, str | bytes | os.PathLike):
            path = os.path.abspath(_folder(event, args) / os.fsdecode(name))  # noqa: PTH100 (links stay links)
            if not path.startswith(_allowed) and "/__pycache__/" not in path:
                raise Outside(f"{event} {path}")


def _folder(event: str, args: tuple[Any, ...]) -> Path:
    """What a relative name starts from: the folder of a descriptor, where a whole tree is removed."""
    last = args[-1]
    if event in ("os.remove", "os.rmdir") and isinstance(last, int) and last >= 0:
        return Path(f"/proc/self/fd/{last}").readlink()
    return Path.cwd()


def _writes(args: tuple[Any, ...]) -> bool:
    return isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _too_long(*_: Any) -> None:
    raise Hang(f"more than {LONGEST} seconds")


@contextmanager
def watched(*outputs: Path) -> Iterator[None]:
    """Raises Hang after a while, and Outside where anything is written that is not below `outputs`."""
    global _allowed
    if not hasattr(sys, "_depthprune_fuzz"):
        sys.addaudithook(_hook)
        sys._depthprune_fuzz = True  # type: ignore[attr-defined]  # a hook cannot be taken away again
    before = signal.signal(signal.SIGALRM, _too_long)
    signal.setitimer(signal.ITIMER_REAL, LONGEST)
    _allowed = (*(str(path.resolve()) for path in outputs), "/dev/")
    try:
        yield
    finally:
        _allowed = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
