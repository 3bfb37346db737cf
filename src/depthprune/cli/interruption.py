"""Ctrl-C, SIGTERM and SIGHUP end a call cleanly: what stands is whole, and one line says how to go on."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

LINE = "interrupted: the same command goes on from the last finished step"
PATIENCE = 10.0
"""Seconds that the main thread has to end; it may be waiting for the disk or another process."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal came; not a KeyboardInterrupt, which typer turns into an exit without a word."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Inside the block the signals raise `Interrupted`; a second one ends the process at once.

    A signal that is ignored already stays so, as under `nohup`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    heard = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}
    read, write = os.pipe()
    os.set_blocking(write, False)
    woken = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    ended = threading.Event()
    threading.Thread(target=_watch, args=(read, ended), daemon=True).start()
    for number in heard:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(woken)
        for number, handler in heard.items():
            signal.signal(number, handler)
        os.close(write)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    raise Interrupted(number)


def _watch(read: int, ended: threading.Event) -> None:
    """Ends the process where the main thread does not: Python calls handlers only between its own steps."""
    while found := os.read(read, 1):
        if found[0] in _SIGNALS and not ended.wait(PATIENCE):
            if os.environ.get("RANK", "0") == "0":
                os.write(2, f"{LINE}\n".encode())
            os._exit(128 + found[0])
    os.close(read)


_forking = threading.local()


def _hold() -> None:
    """Until a fork is over no signal comes: one to the worker would be told to us, by the pipe of both."""
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def _release() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _forget() -> None:
    """In a forked worker, which its pool ends by a signal: that is no word to us."""
    for number in _SIGNALS:
        if signal.getsignal(number) is _raise:
            signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)
    _release()


os.register_at_fork(before=_hold, after_in_parent=_release, after_in_child=_forget)
