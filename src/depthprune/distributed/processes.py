"""What the processes of one run say to each other beside their gradients.

They wait for each other at the store that they found each other by, not in a collective: however long the
first of them works, nothing times out, and a signal is heard at once. All of them call the functions here in
the same order.
"""

import itertools
import os
import pickle
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState

from depthprune.errors import UserError

T = TypeVar("T")

POLL = 0.1
"""Seconds between two looks at the store."""
TIMEOUT = timedelta(hours=2)
"""Of a collective: the others wait in one while the first process writes a checkpoint to a slow disk."""
PATIENCE = 5.0
"""Seconds in which a process whose error is another's consequence waits for that one's word."""
_ENDED = "ended"
_calls = itertools.count()
_alone = ContextVar("alone", default=False)


class FailedElsewhere(Exception):
    """Another process of the run has failed, and says why itself."""


def join() -> PartialState:
    """This process among those of the run, which is often the only one."""
    # Said, for on a machine without accelerator torchrun's processes would not know of each other.
    alone = os.environ.get("WORLD_SIZE") is None
    options: dict[str, Any] = {} if alone else {"timeout": TIMEOUT}
    return PartialState(cpu=not torch.accelerator.is_available(), **options)


def count() -> int:
    """How many processes make the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that does what one can do."""
    return count() == 1 or dist.get_rank() == 0


def leave() -> None:
    """Ends what the processes had in common, once all are here: one of them may keep the store."""
    if count() > 1:
        with suppress(Exception):  # of a process that ends otherwise
            dist.barrier()
        dist.destroy_process_group()


def first_does(work: Callable[[], T]) -> T:
    """What `work` gives in the first process, in all of them; the others wait for it, however long.

    An error of the first is raised in all: a `UserError` as it is, any other as `FailedElsewhere`. Inside
    `work` the first process is alone, and a `first_does` there is a plain call.
    """
    if count() == 1 or _alone.get():
        return work()
    key = f"first-{next(_calls)}"
    if is_first():
        return _told(key, work)
    _wait_for(key)
    found, error = pickle.loads(_store().get(key))
    if error is not None:
        raise error
    return found


def _told(key: str, work: Callable[[], T]) -> T:
    """What `work` gives, told to the others under `key`, its error too."""
    before = _alone.set(True)
    try:
        found = work()
    except Exception as error:
        told = error if isinstance(error, UserError) else FailedElsewhere(str(error))
        _store().set(key, pickle.dumps((None, told)))
        raise
    finally:
        _alone.reset(before)
    _store().set(key, pickle.dumps((found, None)))
    return found


def wait_for_all() -> None:
    """Returns once every process is here, however long that takes."""
    if count() == 1 or _alone.get():
        return
    name = f"all-{next(_calls)}"
    if _store().add(f"{name}-here", 1) == count():
        _store().set(name, b"")
    _wait_for(name)


def check_same(what: dict[str, Any]) -> None:
    """Raises `UserError` where a process says other things than the first one."""
    first = first_does(lambda: what)
    if differing := [name for name in what if what[name] != first.get(name)]:
        raise UserError(
            f"process {dist.get_rank()} has another {' and '.join(differing)} than process 0: give all the "
            "same command, and the same files at its paths"
        )
    wait_for_all()


def tell_end(code: int) -> bool:
    """Tells the others the `code` that this process ends with; True where it is the first, which says why."""
    if count() == 1:
        return True
    with suppress(Exception):  # the store is gone with the process that kept it
        if _store().add("tellers", 1) > 1:
            return False
        _store().set(_ENDED, str(code))
        return True
    return is_first()


def told_end(patience: float = 0.0) -> int | None:
    """The code that another process has ended with; None where none has told within these seconds."""
    end = time.monotonic() + patience
    with suppress(Exception):
        while count() > 1:
            if _store().check([_ENDED]):
                return int(_store().get(_ENDED))
            if time.monotonic() >= end:
                break
            time.sleep(POLL)
    return None


def _wait_for(key: str) -> None:
    while not _store().check([key]):
        if _store().check([_ENDED]):
            raise FailedElsewhere("another process of this run has failed")
        time.sleep(POLL)


def _store() -> Any:
    return dist.PrefixStore("depthprune", dist.distributed_c10d._get_default_store())
