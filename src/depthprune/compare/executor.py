"""Where the runs of a comparison are done: by default one after the other, in this process."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from depthprune.compare.grid import Cell
from depthprune.compare.tasks import Outcome, Task, attempt


class Executor(Protocol):
    """Does tasks, several at once or one at a time.

    Attributes:
        elsewhere: whether other machines do them, so that nothing may be tried out on this one.
        apart: whether other processes do them, whose log is not this one's.
    """

    elsewhere: bool
    apart: bool

    def prepare(self, root: Path, cells: Sequence[Cell]) -> None:
        """Before the first task of the comparison in `root`; `cells` are the runs to come."""

    def room(self) -> int:
        """How many tasks can begin now."""

    def running(self) -> Collection[str]:
        """The names of those that have begun and not been told of by `ended`."""

    def start(self, tasks: Sequence[Task]) -> None:
        """Begins them."""

    def ended(self) -> dict[str, Outcome]:
        """Waits a little; those that have ended meanwhile."""

    def close(self) -> None:
        """At the end, also where an error or a signal brings it about."""


class Here:
    """One after the other, in this process."""

    elsewhere = False
    apart = False

    def __init__(self) -> None:
        self._found: dict[str, Outcome] = {}

    def prepare(self, root: Path, cells: Sequence[Cell]) -> None:
        return

    def room(self) -> int:
        return 1 - len(self._found)

    def running(self) -> Collection[str]:
        return self._found

    def start(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._found[task.name] = attempt(task)

    def ended(self) -> dict[str, Outcome]:
        found, self._found = self._found, {}
        return found

    def close(self) -> None:
        return
