"""GradPruner, flatten and controls on AG News topics: three seeds, 25 % and 40 %, all tuned alike.

    python benchmarks/news.py --model ../shared/lab/model --data ../shared/lab/data/news
    python benchmarks/news.py --ratios 0.4 --methods GradPruner flatten "flatten's layers, cut"
    python benchmarks/news.py --table

Each cell is an ordinary run in a folder of its own. Called again, the script goes on where it was; with
`--table` it prints what is there, and says what is missing.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

from depthprune.files import write_json

SEEDS = (1, 2, 3)
RATIOS = (0.25, 0.4)
DENSE = "dense"
METHODS = {
    DENSE: "finetune",
    "GradPruner": "gradpruner",
    "last layers": "reverse",
    "random layers": "random",
    "flatten": "flatten",
    "flatten's layers, cut": "reverse",
}
LIKE = {"flatten's layers, cut": "flatten"}
"""Methods that remove the layers of another one's plan, which comes before them."""
TUNING = {
    "training.method": "full",
    "training.learning_rate": 6e-4,
    "training.per_device_train_batch_size": 32,
    "training.gradient_accumulation_steps": 1,
    "training.max_steps": 64,
    "training.train_sampling_strategy": "group_by_length",
    "training.save_steps": 0.5,
}
EVALUATION_ROWS = 800


def cells(asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Every model of the table, the seeds outermost, so that a part of the work is a whole seed."""
    found = []
    for seed in SEEDS:
        if DENSE in asked.methods:
            found.append({"name": DENSE, "recipe": METHODS[DENSE], "ratio": None, "seed": seed})
        for ratio in asked.ratios:
            for name in asked.methods:
                if name != DENSE:
                    found.append({"name": name, "recipe": METHODS[name], "ratio": ratio, "seed": seed})
    return found


def folder_of(cell: dict[str, Any], output: Path) -> Path:
    """The run folder of a cell."""
    slug = "-".join("".join(c if c.isalnum() else " " for c in cell["name"]).split())
    return output / f"{slug}-{cell['ratio'] or 0}-seed{cell['seed']}"


def run_cell(cell: dict[str, Any], model: str, data: Path, output: Path) -> None:
    """Prunes and tunes one model, measures it, and keeps its accuracy and what it took in `result.json`."""
    from depthprune import load_recipe, run
    from depthprune.pipeline.run import evaluate_model

    folder = folder_of(cell, output)
    result = folder / "depthprune" / "result.json"
    if result.exists():
        return
    start = time.perf_counter()
    overrides: dict[str, Any] = {**TUNING, "seed": cell["seed"], "model": model}
    overrides |= {"train": str(data / "train.jsonl"), "eval": (str(data / "test.jsonl"),)}
    if cell["name"] in LIKE:
        other = folder_of({**cell, "name": LIKE[cell["name"]]}, output) / "depthprune" / "plan.json"
        overrides |= {
            "selection.method": "explicit",
            "selection.remove": json.loads(other.read_text())["removed"],
        }
    elif cell["ratio"]:
        overrides["selection.ratio"] = cell["ratio"]
    if cell["recipe"] == "random":
        overrides["importance.seed"] = cell["seed"]
    run(load_recipe(cell["recipe"], **overrides), folder, until="train")
    measured = evaluate_model(
        load_recipe(
            "finetune",
            model=str(folder),
            eval=(str(data / "test.jsonl"),),
            **{"training.method": "none", "evaluation.limit": EVALUATION_ROWS},
        )
    )
    (row,) = measured["rows"].values()
    plan = folder / "depthprune" / "plan.json"
    removed = json.loads(plan.read_text())["removed"] if plan.exists() else []
    stages = json.loads((folder / "depthprune" / "stages.json").read_text())
    seconds = {stage: stages[stage]["seconds"] for stage in stages}
    write_json(result, {**cell, **row, "removed": removed, "stage_seconds": seconds})
    print(
        f"{folder.name}: {row['results'][0]['value']:.3f} in {time.perf_counter() - start:.0f} s", flush=True
    )


def table(asked: argparse.Namespace) -> str:
    """Markdown: per method and ratio the mean accuracy over seeds, its spread, and the layers that went."""
    results = [
        json.loads(path.read_text())
        for cell in cells(asked)
        if (path := folder_of(cell, asked.output) / "depthprune" / "result.json").exists()
    ]
    lines = [
        "| model | layers | parameters | accuracy, mean of seeds | each seed | removed (seed 1) |",
        "|---|---|---|---|---|---|",
    ]
    for ratio in (None, *asked.ratios):
        for name in asked.methods:
            rows = [row for row in results if row["name"] == name and row["ratio"] == ratio]
            if rows:
                lines.append(_line(name, ratio, rows))
    missing = len(cells(asked)) - len(results)
    if results:
        majority = results[0]["results"][0]["majority"]
        lines.append(f"| majority class | – | – | {majority:.3f} | | |")
        n, stderr = results[0]["results"][0]["n"], results[0]["results"][0]["stderr"]
        lines.append(f"\nn = {n} test rows; one model's standard error is about {stderr:.3f}.")
    if missing:
        lines.append(f"\n**Unfinished: {missing} of {len(cells(asked))} models are missing.**")
    return "\n".join(lines)


def _line(name: str, ratio: float | None, rows: list[dict[str, Any]]) -> str:
    values = [row["results"][0]["value"] for row in rows]
    title = name if ratio is None else f"{name}, {ratio:.0%}"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    removed = ", ".join(map(str, next(iter(rows))["removed"])) or "–"
    each = ", ".join(f"{value:.3f}" for value in values)
    mean, size = f"{statistics.mean(values):.3f}{spread}", f"{rows[0]['parameters'] / 1e6:.2f} M"
    return f"| {title} | {rows[0]['layers']} | {size} | {mean} | {each} | {removed} |"


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="../shared/lab/model")
    parser.add_argument("--data", type=Path, default=Path("../shared/lab/data/news"))
    parser.add_argument("--output", type=Path, default=Path("out/news-table"))
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--ratios", nargs="+", type=float, default=RATIOS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--json", type=Path, help="also writes all that is there into this file")
    asked = parser.parse_args()
    if not asked.table:
        for cell in cells(asked):
            run_cell(cell, asked.model, asked.data, asked.output)
    print(table(asked))
    if asked.json:
        write_json(asked.json, everything(asked))


def everything(asked: argparse.Namespace) -> dict[str, Any]:
    """What `tables.py` reads: every model that is there, as data."""
    made = []
    for cell in cells(asked):
        result = folder_of(cell, asked.output) / "depthprune" / "result.json"
        if result.exists():
            found = json.loads(result.read_text())
            about = {"method": cell["name"], "ratio": cell["ratio"], "seed": cell["seed"]}
            made.append({**about, "accuracy": found["results"][0]["value"], "layers": found["removed"]})
    return {"rows": EVALUATION_ROWS, "cells": made, "missing": len(cells(asked)) - len(made)}


if __name__ == "__main__":
    main()
