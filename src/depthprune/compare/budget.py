"""How much time a comparison may take, and what a run will, by the runs like it."""

import time
from collections.abc import Sequence
from pathlib import Path

from depthprune.compare.grid import Cell
from depthprune.pipeline.folder import RunFolder


class Times:
    """How long each run took, and what that says of others.

    Attributes:
        took: the run's name → what it is, and its seconds.
    """

    def __init__(self) -> None:
        self.took: dict[str, tuple[Cell, float]] = {}

    def look_at(self, cells: Sequence[Cell], runs: Path) -> None:
        """Takes in what is done in the folder `runs`: the stages that a run did itself."""
        for cell in cells:
            stamps = RunFolder(runs / cell.name).stamps()
            if "evaluate" in stamps:
                own = [stamp["seconds"] for stamp in stamps.values() if "from" not in stamp]
                self.add(cell, sum(own))

    def add(self, cell: Cell, seconds: float) -> None:
        """One more; what is known of it already stays."""
        self.took.setdefault(cell.name, (cell, seconds))

    def expected(self, cell: Cell) -> float:
        """The longest that another seed took, or else another size, or any run; 0 where there is none."""
        if cell.name in self.took:
            return 0.0
        likes = (
            [s for c, s in self.took.values() if (c.method, c.ratio) == (cell.method, cell.ratio)],
            [s for c, s in self.took.values() if c.method == cell.method],
            [s for c, s in self.took.values() if (c.ratio is None) == (cell.ratio is None)],
            [s for _, s in self.took.values()],
        )
        return max(next((like for like in likes if like), [0.0]))

    def left(self, cells: Sequence[Cell]) -> float:
        """Seconds of all that are not done."""
        return sum(map(self.expected, cells))


class Budget:
    """Seconds from now on."""

    def __init__(self, seconds: float) -> None:
        self.ends = time.monotonic() + seconds
        self.times = Times()

    def allows(self, cell: Cell) -> bool:
        """Whether the run would end in time; of one that is like none before, whether there is time."""
        return time.monotonic() + self.times.expected(cell) < self.ends
