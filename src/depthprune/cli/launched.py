"""A call that torchrun or `accelerate launch` makes in several processes: they end as one.

Nothing here imports torch where a call is one process.
"""

import os
import re
import signal
from collections.abc import Sequence

from depthprune.errors import UserError

VERBS = ("run", "score", "train")
"""What several processes do together."""
LOST = "another process of this run has ended: the same command goes on from the last finished step"
# What gloo, NCCL and the store say in a process whose neighbour is gone.
_GONE = re.compile(r"(closed|reset) by peer|Broken pipe|remote process exited|remote server shutdown")


def several() -> bool:
    """Whether a launcher has started more than this process."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")


def join(arguments: Sequence[str]) -> None:
    """Finds the other processes, if there are any; raises `UserError` for a verb that one process does."""
    if not several():
        return
    from depthprune.distributed import processes

    processes.join()
    verb = next((word for word in arguments if not word.startswith("-")), "")
    if verb not in VERBS and "--help" not in arguments:
        raise UserError(
            f"depthprune {verb} is for one process: call it without torchrun or accelerate launch, which are "
            f"for {', '.join(VERBS)}"
        )


def leave(code: int | None) -> None:
    """Takes leave of the others; the signal that a launcher sends them then changes no exit code any more."""
    if not several():
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not code:
        from depthprune.distributed import processes

        processes.leave()


def tell(code: int) -> tuple[int, bool]:
    """The code to end with, which is that of the first process to end, and whether this one says why."""
    if not several():
        return code, True
    from depthprune.distributed import processes

    if (told := processes.told_end()) is not None:
        return told, False
    if processes.tell_end(code):
        return code, True
    return processes.told_end(processes.PATIENCE) or code, False


def by_another(problem: Exception) -> bool:
    """Whether an error is only the consequence of another process's end."""
    if not several():
        return False
    from depthprune.distributed import processes

    if not isinstance(problem, processes.FailedElsewhere) and not _GONE.search(str(problem)):
        return False
    processes.told_end(processes.PATIENCE)  # it says why, if it still can
    return True
