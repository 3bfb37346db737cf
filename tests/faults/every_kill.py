"""Kills tiny runs at every change of their folder, calls them again, and compares: `make test-faults`.

Prints one line a scenario: the operations, the different states that a kill at them leaves, and how many of
these ended exactly as the run that nothing stopped. Names of scenarios, as arguments, choose among them.
"""

import gc
import importlib
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from faults.kills import States, dying, forked, lay_out, record
from faults.outcome import assert_honest, difference, model_files, outcome
from runs import recipe

from depthprune import run
from depthprune.model.checkpoint import prune_files
from depthprune.report import plots

WHOLE = "whole"
"""What a call gives that ended before the moment at which it was to be killed."""
SMALL: dict[str, Any] = {
    "training.max_steps": 4,
    "training.save_steps": 2,
    "training.logging_steps": 2,
    "training.method": "full",
    "evaluation.limit": 4,
}
MERGED = {**SMALL, "selection.ratio": 0.5, "baseline": True}
TAUGHT = {
    **SMALL,
    "training.data": "self",
    "training.loss": "distill",
    "training.self_data": {"max_new_tokens": 4},
    "calibration_samples": {"samples": 4, "length": 16},
}


@dataclass
class Scenario:
    """A call into a folder that it or another call may have left something in."""

    name: str
    act: Callable[[Path], Any]
    first: Callable[[Path], Any] | None = None
    """What has happened in the folder before."""


def scenarios(place: Path) -> list[Scenario]:
    def running(name: str, **overrides: Any) -> Callable[[Path], Any]:
        return lambda root: run(recipe(place, name, **overrides), root)

    merged = running("gradpruner", **MERGED)
    changed = running("gradpruner", **{**MERGED, "selection.ratio": 0.34, "training.learning_rate": 2e-3})
    return [
        Scenario("score, merge, train, baseline, evaluate", merged),
        Scenario("rounds, answers, teacher", running("shortgpt-iterative", **TAUGHT)),
        Scenario("the same with a changed recipe", changed, merged),
        Scenario("prune", lambda root: prune_files(place / "model", [1, 3], root)),
    ]


@dataclass
class Recorded:
    """A scenario's states, and what is there when nothing stops it."""

    scenario: Scenario
    states: States
    wanted: dict[str, Any]
    models: list[dict[str, bytes]]


def recorded(scenario: Scenario, place: Path) -> Recorded:
    """Calls it once, in a fork."""

    def act() -> Recorded:
        _quiet()
        root = place / "whole" / "out"
        if scenario.first:
            scenario.first(root)
        models = _models(root)
        states = record(root, lambda: scenario.act(root))
        models += [*_models(root), model_files(root)] if scenario.name == "prune" else _models(root)
        if scenario.name == "prune":
            states.trees.pop()  # whole: called again, prune refuses a folder that is not empty
        return Recorded(Scenario(scenario.name, print), states, outcome(root), models)

    found: Recorded = forked(act, place / "whole.log")()
    shutil.rmtree(place / "whole")
    found.scenario = scenario
    return found


def _models(root: Path) -> list[dict[str, bytes]]:
    checkpoints = [root / "depthprune" / name for name in ("pruned", "tuned")]
    return [model_files(checkpoint) for checkpoint in checkpoints if checkpoint.is_dir()]


def _quiet() -> None:
    torch.set_num_threads(1)


def check(found: Recorded, number: int, place: Path) -> Callable[[], str | None]:
    """Calls the scenario again in what the kill `number` left; what then differs, or None."""
    label, tree = found.states.trees[number]
    root = place / f"state-{number}" / "out"

    def act() -> str | None:
        _quiet()
        lay_out(tree, found.states.blobs, root)
        assert_honest(root, found.models)
        found.scenario.act(root)
        return difference(outcome(root), found.wanted)

    wait = forked(act, place / f"state-{number}.log")

    def result() -> str | None:
        try:
            fault = wait()
        except AssertionError as error:
            fault = str(error)
        shutil.rmtree(root.parent, ignore_errors=True)
        return fault and f"{found.scenario.name}, state {number} ({label}): {fault}"

    return result


def killed_twice(found: Recorded, moments: tuple[int, int], place: Path) -> str | None:
    """Really ends the process at two moments, of the first call and of the second; what then differs."""
    root, log = place / "killed" / "out", place / "killed.log"
    act = partial(found.scenario.act, root)
    if found.scenario.first:
        forked(lambda: found.scenario.first(root) is None, log)()  # type: ignore[misc]
    killed = True
    for moment in moments:
        killed = killed and forked(lambda moment=moment: dying(root, act, moment) or WHOLE, log)() != WHOLE
    fault = forked(lambda: (killed and act(), difference(outcome(root), found.wanted))[1], log)()
    shutil.rmtree(root.parent)
    return fault and f"{found.scenario.name}, killed at operations {moments}: {fault}"


def warm(place: Path) -> None:
    """What every fork would otherwise load again."""
    recipe(place)  # makes model and data
    for module in ("trl", "matplotlib.figure", "depthprune.training.distill"):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a stage collects garbage when it ends: not all that was loaded here, every time


def in_parallel(calls: list[Callable[[], Callable[[], str | None]]]) -> list[str]:
    """Starts as many at once as there are cores; the faults that they found."""
    faults, waiting = [], []
    for start in calls:
        waiting.append(start())
        if len(waiting) >= (os.cpu_count() or 1):
            faults.append(waiting.pop(0)())
    return [fault for fault in [*faults, *(wait() for wait in waiting)] if fault]


def main() -> None:
    torch.set_num_threads(1)
    # Figures write no file of their own, and take a quarter of the time.
    plots.svg = lambda figure, label: ""
    place = Path(tempfile.mkdtemp(prefix="depthprune-faults-"))
    warm(place)
    failed = 0
    for scenario in scenarios(place):
        if sys.argv[1:] and scenario.name not in sys.argv[1:]:
            continue
        start = time.perf_counter()
        found = recorded(scenario, place)
        numbers = range(len(found.states.trees))
        faults = in_parallel([partial(check, found, n, place) for n in numbers])
        draw = random.Random(0)
        twice = [(draw.randint(1, found.states.operations), draw.randint(1, 40)) for _ in range(5)]
        faults += [fault for moments in twice if (fault := killed_twice(found, moments, place))]
        print(
            f"{scenario.name}: {found.states.operations} operations, {len(numbers)} states and {len(twice)} "
            f"double kills, {len(numbers) + len(twice) - len(faults)} ended the same "
            f"({time.perf_counter() - start:.0f} s)"
        )
        print("\n".join(faults), end="\n" if faults else "", flush=True)
        failed += len(faults)
    shutil.rmtree(place)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
