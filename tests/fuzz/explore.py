"""Fuzzes what comes from outside for a while: `make fuzz`.

    python tests/fuzz/explore.py --seconds 90 [--seed N] [KIND …]

Prints, for each kind of input, how often it was tried, how often it was refused, and what went wrong:
anything raised but a UserError, more than twenty seconds, a change outside the output. The same seed tries
the same in the same order. Ends with 1 where something was found.
"""

import argparse
import collections
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

import hypothesis
import transformers
from fuzz.kinds import Kind, kinds, prepare, reset
from fuzz.watching import watched
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.configuration import set_hypothesis_home_dir

from depthprune.errors import UserError

AT_ONCE = 50


@dataclass
class Found:
    """What came of one kind of input; `faults` by where they were raised, each with the first case."""

    tried: int = 0
    refused: int = 0
    faults: dict[str, str] = field(default_factory=dict)


def quiet(place: Path) -> None:
    set_hypothesis_home_dir(place / "hypothesis")
    transformers.logging.set_verbosity(logging.CRITICAL)
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("depthprune").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")


def explore(kind: Kind, place: Path, seconds: float, seed: int) -> Found:
    """Tries cases of a kind in the folder `place`, which `prepare` has filled, until the time is over."""
    found, end = Found(), time.perf_counter() + seconds
    while time.perf_counter() < end:

        @hypothesis.seed(seed)
        @settings(
            max_examples=AT_ONCE,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(kind.cases)
        def once(case: object) -> None:
            if time.perf_counter() < end or not found.tried:
                _try(kind, place, case, found)

        once()
        seed += 1
    return found


def _try(kind: Kind, place: Path, case: object, found: Found) -> None:
    reset(place)
    kind.lay_out(place, case)
    found.tried += 1
    try:
        with watched(place / "out"):
            kind.act(place)
    except UserError as refusal:
        found.refused += 1
        if "Traceback" in str(refusal) or len(str(refusal)) > 2000:
            found.faults.setdefault(f"a long refusal: {refusal!s:.300}", repr(case)[:3000])
    except KeyboardInterrupt:
        raise
    except BaseException as fault:
        frames = traceback.extract_tb(fault.__traceback__)
        ours = [frame for frame in frames if "depthprune" in frame.filename] or frames
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}, in {frames[-1].name}"
        said = f"{type(fault).__name__}: {str(fault)[:200]!r} at {where}"
        known = [said for said in found.faults if said.endswith(where)]
        if not known:
            found.faults[said] = repr(case)[:3000]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="depthprune-fuzz-"))
    quiet(place)
    prepare(place)
    chosen = {name: kind for name, kind in kinds(place).items() if name in options.kinds or not options.kinds}
    print(f"seed {options.seed}")
    total: collections.Counter[str] = collections.Counter()
    for name, kind in chosen.items():
        found = explore(kind, place, options.seconds / len(chosen), options.seed)
        print(f"{name:10} {found.tried:7,} tried, {found.refused:7,} refused, {len(found.faults)} findings")
        for fault, case in found.faults.items():
            print(f"  {fault}\n    {case}", flush=True)
        total.update(tried=found.tried, findings=len(found.faults))
    print(f"{total['tried']:,} executions, {total['findings']} findings")
    shutil.rmtree(place)
    sys.exit(1 if total["findings"] else 0)


if __name__ == "__main__":
    main()
