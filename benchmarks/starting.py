"""What the commands cost that compute nothing: seconds and peak memory of each, from the shell and back.

    python benchmarks/starting.py --model ../shared/lab/model

Medians of several calls, each in a process of its own; the commands take turns. CPU seconds tell a busy
machine from a slow start. `inspect` reads config and headers alone of plain families; of others it makes the
model without weights. Below stand the imports that such a call cannot be had without.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from typing import NamedTuple

REFUSED = 2


class Cost(NamedTuple):
    """Of one call."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def measure(arguments: list[str], exit_code: int) -> Cost:
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    assert os.waitstatus_to_exitcode(status) == exit_code, arguments
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * unit)


def commands(model: str) -> dict[str, tuple[list[str], int]]:
    """What is printed → the arguments of Python, and how the call ends."""
    refused = {
        "an unknown verb": "prone",
        "an unknown recipe": "run gradprunner",
        "an unknown key": "run gradpruner training.learning_rat=1",
        "ratio 1.5": "run gradpruner --ratio 1.5",
        "ratio nan": "run sleb --ratio nan",
    }
    done = {"--help": "--help", "methods": "methods", "inspect": f"inspect {model}"}
    depthprune = ["-m", "depthprune"]
    return {
        **{name: ([*depthprune, *line.split()], REFUSED) for name, line in refused.items()},
        **{name: ([*depthprune, *line.split()], 0) for name, line in done.items()},
        "load_recipe": (["-c", "import depthprune; depthprune.load_recipe('gradpruner')"], 0),
        "import torch": (["-c", "import torch"], 0),
        "import transformers": (["-c", "from transformers import PreTrainedModel"], 0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--calls", type=int, default=7)
    options = parser.parse_args()
    measured: dict[str, list[Cost]] = {}
    for call in range(options.calls + 1):
        for name, (arguments, exit_code) in commands(options.model).items():
            cost = measure(arguments, exit_code)
            if call:  # the first one fills the disk cache
                measured.setdefault(name, []).append(cost)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, medians of {options.calls} calls\n")
    print(f"{'':22}{'seconds':>9}{'CPU s':>9}{'peak MB':>9}")
    for name, costs in measured.items():
        seconds, cpu, peak = map(statistics.median, zip(*costs, strict=True))
        print(f"{name:22}{seconds:9.2f}{cpu:9.2f}{peak / 1e6:9.0f}")


if __name__ == "__main__":
    main()
