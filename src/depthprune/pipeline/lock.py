"""One run at a time in a folder."""

import errno
import fcntl
import getpass
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from depthprune.errors import UserError

log = logging.getLogger("depthprune")

BEAT, SILENT = 20.0, 300.0
"""Seconds between two signs of life, and without one after which a run on another machine counts as dead."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_held: set[int] = set()


class InUse(UserError):
    """Another process works in the folder.

    Attributes:
        left: seconds after which it counts as dead, should it give no sign; None where it surely lives.
    """

    def __init__(self, said: str, left: float | None = None) -> None:
        super().__init__(said)
        self.left = left


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the file `path`, which names its owner, until the block ends.

    The system frees it when the process ends, however that was: no matter which process has its number now.
    That counts on one machine; between machines, and on file systems that do not lock, the file's time does,
    which the owner keeps new. A job that SLURM has begun again knows that it has ended before.

    Raises:
        InUse: another process holds it; nothing is changed then.
    """
    file, certain = _open(path)
    done = threading.Event()
    try:
        owner = _owner(file)
        certain = certain and owner.get("machine") in (None, _machine())
        certain = certain or _began_again(owner.get("job"))
        if owner and not certain and (left := SILENT - (time.time() - path.stat().st_mtime)) > 0:
            raise InUse(f"{_in_use(path, owner)}; if that ended, try again in {left:.0f} s", left)
        if owner:
            log.warning("goes on where another run ended without a word (%s)", _named(owner))
        _write(file)
        threading.Thread(target=_beat, args=(path, done), daemon=True).start()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
    finally:
        done.set()
        _held.discard(file)
        os.close(file)


def _open(path: Path) -> tuple[int, bool]:
    """The file, locked, and whether the file system does lock."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking its owner may have ended and taken the file away.
            if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
                _held.add(file)
                return file, True
            os.close(file)
        except BlockingIOError:
            owner = _owner(file)
            os.close(file)
            raise InUse(_in_use(path, owner)) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(file)
                raise
            _held.add(file)
            return file, False


def _write(file: int) -> None:
    record = {
        "user": getpass.getuser(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "machine": _machine(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        **({"job": job} if (job := _job()) else {}),
    }
    os.ftruncate(file, 0)
    os.pwrite(file, json.dumps(record).encode(), 0)
    os.fsync(file)


def _job() -> list[Any]:
    """Cluster and number of the job of SLURM that this is, and how often it was begun again, if it is one."""
    found = os.environ
    if "SLURM_JOB_ID" not in found:
        return []
    again = found.get("SLURM_RESTART_COUNT", "0")
    return [found.get("SLURM_CLUSTER_NAME", ""), found["SLURM_JOB_ID"], int(again) if again.isdigit() else 0]


def _began_again(theirs: Any) -> bool:
    """Whether the lock is that of this job before SLURM ended it to begin it again."""
    ours = _job()
    return bool(ours) and isinstance(theirs, list) and theirs[:2] == ours[:2] and theirs[2:] < ours[2:]


def _owner(file: int) -> dict[str, Any]:
    """What the file says; empty where it says nothing whole."""
    with suppress(ValueError):
        found = json.loads(os.pread(file, 4096, 0))
        return found if isinstance(found, dict) else {}
    return {}


def _machine() -> str:
    """Of this boot of this machine, whatever its containers call themselves."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.is_file() else socket.gethostname()


def _named(owner: dict[str, Any]) -> str:
    known = all(name in owner for name in ("pid", "user", "host", "since"))
    said = "process {pid} of {user} on {host}, since {since}"
    return said.format(**owner) if known else "its owner is not written"


def _in_use(path: Path, owner: dict[str, Any]) -> str:
    return (
        f"{path.parent.parent} is in use by another run ({_named(owner)}): wait for its end, or name another "
        "folder with --output"
    )


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with suppress(OSError):
            os.utime(path)


def _let_go() -> None:
    """In a forked worker, which may outlive the process that holds the lock."""
    for file in _held:
        with suppress(OSError):
            os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
