"""What a process's settings do to a run: how OpenMP's threads wait, and when malloc gives memory back.

    python benchmarks/process.py --model ../shared/lab/model --train ../shared/lab/text/wikipedia.jsonl \\
        --eval ../shared/lab/text/wikitext2-test.txt

Full fine-tuning and an evaluation with `depthprune train`, once under each setting in turn, on an idle
machine or with `--busy N` beside N processes that never sleep. Seconds and peak memory of each stage are what
the run itself notes; page faults, user and system seconds are the process's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# The verbs without `main`, which would choose settings itself.
CALL = "from depthprune.cli import terminal; from depthprune.cli.verbs import app; terminal.quiet(); app()"
PASSIVE = {"OMP_WAIT_POLICY": "passive"}
NEVER = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "100000000000"}
BOUNDED = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**30)}
CHOSEN = ("MALLOC_", "OMP_WAIT")
SETTINGS: dict[str, dict[str, str]] = {
    "as the system has it": {},
    "threads sleep": PASSIVE,
    "and nothing is given back": PASSIVE | NEVER,
    "and up to 1 GB is kept": PASSIVE | BOUNDED,
}


def measure(options: argparse.Namespace, settings: dict[str, str]) -> dict[str, float]:
    """Of one run under these settings."""
    free = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "OMP_", "THP_"))
    }
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["train", "--model", options.model, "--train", options.train, "--eval", options.eval]
        arguments += ["--output", f"{folder}/out", "training.method=full", *options.settings]
        process = subprocess.Popen(
            [sys.executable, "-c", CALL, *arguments], env={**free, **settings}, stderr=subprocess.PIPE
        )
        said = process.stderr.read() if process.stderr else b""
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0, said.decode()
        stages: dict[str, Any] = json.loads(Path(folder, "out/depthprune/stages.json").read_text())
    return {
        "train s": stages["train"]["seconds"],
        "evaluate s": stages["evaluate"]["seconds"],
        "train MB": stages["train"]["peak_bytes"] / 1e6,
        "evaluate MB": stages["evaluate"]["peak_bytes"] / 1e6,
        "faults k": used.ru_minflt / 1e3,
        "user s": used.ru_utime,
        "system s": used.ru_stime,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("--model", "--train", "--eval"):
        parser.add_argument(name, required=True)
    parser.add_argument("--busy", type=int, default=0, help="processes that never sleep, meanwhile")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(SETTINGS))
    parser.add_argument("settings", nargs="*", help="KEY=VALUE, as for `depthprune train`")
    options = parser.parse_args()
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(options.busy)]
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in options.only}
    try:
        for _ in range(options.runs):
            for name, found in measured.items():
                found.append(measure(options, SETTINGS[name]))
                print(name, found[-1], file=sys.stderr)
    finally:
        for process in spinning:
            process.kill()
    print(f"{options.busy} busy processes on {os.cpu_count()} cores, medians of {options.runs} runs\n")
    columns = list(next(iter(measured.values()))[0])
    print(f"{'':28}" + "".join(f"{column:>13}" for column in columns))
    for name, found in measured.items():
        values = [statistics.median(run[column] for run in found) for column in columns]
        print(f"{name:28}" + "".join(f"{value:13.1f}" for value in values))


if __name__ == "__main__":
    main()
