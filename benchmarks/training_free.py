"""Pruning without training: who chooses the layers, and what repairs the rest.

    python benchmarks/training_free.py --removed 2 4 5 --draws 3
    python benchmarks/training_free.py --model gemma-3-270m-small --removed 2 4 --output out/free-gemma

Every choice of layers is measured bare, with the repair of its own paper, and flattened; flatten chooses too.
Perplexity on two texts, for several draws of the calibration samples. A choice has a run folder of its own,
in which one repair after the other is made, and each checkpoint that `depthprune run` leaves is measured by
itself. A killed call goes on; `--table` prints what is there and says what is missing. Seconds are of
choosing for a bare cut, and of choosing, repairing, saving and checking for a repaired one.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from depthprune import UserError, load_recipe, run
from depthprune.files import write_json
from depthprune.pipeline.run import evaluate_model

LAB = Path("../shared/lab")
LENGTH = 128
"""Tokens of a sample, for every method."""
UNTRAINED = {"training.method": "none"}
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "loss, iterative (SLEB)": ("sleb", {}),
    "gradient norm, iterative (GradMAP)": ("gradmap", {}),
    "block influence, iterative": ("shortgpt-iterative", {}),
    "angular, one block (ReplaceMe)": ("replaceme", {}),
    "cosine, one block (LLM-Streamline)": ("llm-streamline", {}),
    "last layers": ("reverse", UNTRAINED),
    "random, another seed a draw": ("random", UNTRAINED),
    "flatten": ("flatten", {}),
}
REPAIRS: dict[str, tuple[str, ...]] = {
    "loss, iterative (SLEB)": ("none", "projection", "flatten"),
    "gradient norm, iterative (GradMAP)": ("none", "projection", "flatten"),
    "angular, one block (ReplaceMe)": ("none", "linear", "flatten"),
    "cosine, one block (LLM-Streamline)": ("replacement-layer",),  # its choice is made for it
    "flatten": ("flatten",),
}
"""By choice; the others are measured bare and flattened."""


def repairs_of(choice: str) -> tuple[str, ...]:
    """What is made of a choice, `none` for its bare cut."""
    return REPAIRS.get(choice, ("none", "flatten"))


@dataclass(frozen=True)
class Cell:
    """One checkpoint: so many layers, chosen and repaired in a way, on one draw of the samples."""

    removed: int
    choice: str
    repair: str
    draw: int

    @property
    def chosen(self) -> str:
        """The name of the folder of the choice."""
        return _slug(f"{self.removed} {self.choice} draw {self.draw}")

    def result(self, output: Path) -> Path:
        """Where its measurements are kept."""
        return output / "results" / f"{self.chosen}-{self.repair}.json"


def _slug(words: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in words).split())


def cells(asked: argparse.Namespace) -> Iterator[Cell]:
    """The draws outermost within each number of layers, so that a part of the work is a whole draw."""
    for removed in asked.removed:
        for draw in range(asked.draws):
            for choice in asked.choices:
                for repair in repairs_of(choice):
                    if repair in asked.repairs:
                        yield Cell(removed, choice, repair, draw)


def measure(cell: Cell, asked: argparse.Namespace) -> None:
    """Makes and measures a cell unless that was done, and keeps what was found."""
    result, folder = cell.result(asked.output), asked.output / cell.chosen
    if result.exists():
        return
    name, settings = CHOICES[cell.choice]
    fewer = asked.repair_layers and cell.repair == "projection"
    start = time.perf_counter()
    recipe = {
        "model": asked.model,
        "calibration": asked.calibration,
        "calibration_samples.samples": asked.samples,
        "calibration_samples.length": LENGTH,
        "arithmetic": "float32",
        "seed": cell.draw,
        **settings,
        **({"importance.seed": cell.draw} if name == "random" else {}),
        "selection.ratio": None,
        "selection.num_removed": cell.removed,
        "recovery.method": cell.repair,
        **({"recovery.layers": asked.repair_layers} if fewer else {}),
    }
    try:
        run(load_recipe(name, **recipe), folder, until="prune", overwrite=True)
    except UserError as refusal:
        found: dict[str, Any] = {"refused": str(refusal)}
    else:
        found = {**_made(folder), "perplexity": perplexities(str(folder), asked)}
        if cell.draw == 0 and asked.tasks:
            found["tasks"] = on_tasks(str(folder), asked)
    write_json(result, found)
    print(f"{result.stem}: {time.perf_counter() - start:.0f} s", flush=True)


def _made(folder: Path) -> dict[str, Any]:
    own = {file.stem: json.loads(file.read_text()) for file in (folder / "depthprune").glob("*.json")}
    choosing = sum(own["stages"][name]["seconds"] for name in ("score", "select") if name in own["stages"])
    return {
        "removed": own["plan"]["removed"],
        "changed": own["recovery"]["changed_layers"],
        "seconds": {"choosing": choosing, "repairing": own["stages"]["prune"]["seconds"]},
    }


def perplexities(model: str, asked: argparse.Namespace) -> list[float]:
    """Of a checkpoint, on each text."""
    found = measured(model, asked, asked.eval, asked.limit)
    return [result["value"] for result in found if result["metric"] == "perplexity"]


def on_tasks(model: str, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Of a checkpoint on every row of each task, one by one, for many files are named test.jsonl."""
    return [result for task in asked.tasks for result in measured(model, asked, [task], limit=None)]


def measured(
    model: str, asked: argparse.Namespace, files: list[str], limit: int | None
) -> list[dict[str, Any]]:
    """The results of a checkpoint on files of text or of rows."""
    settings = {
        "model": model,
        "eval": tuple(files),
        "arithmetic": "float32",
        "training.method": "none",
        "evaluation.max_length": 256,
        "evaluation.limit": limit,
    }
    (row,) = evaluate_model(load_recipe("finetune", **settings))["rows"].values()
    return row["results"]


def table(asked: argparse.Namespace) -> str:
    """Markdown: a row a choice and repair, means over draws, and each draw's where there are several."""
    results = {}
    for cell in cells(asked):
        if cell.result(asked.output).exists():
            results[cell] = json.loads(cell.result(asked.output).read_text())
    texts = " | ".join([*(Path(text).stem for text in asked.eval), *map(_title, asked.tasks)])
    lines = [f"| layers gone | chosen by | repair | {texts} | removed (draw 0) | seconds |"]
    lines.append("|---|---|---|" + "---|" * (len(asked.eval) + len(asked.tasks) + 2))
    if _whole(asked).exists():
        whole = json.loads(_whole(asked).read_text())
        values = [*(f"{value:.1f}" for value in whole["perplexity"]), *_accuracies(whole)]
        lines.append(f"| 0 | – | – | {' | '.join(values)} | – | – |")
    for removed in asked.removed:
        for choice in asked.choices:
            lines += _rows(removed, choice, results)
    missing = sum(1 for cell in cells(asked) if cell not in results)
    if missing:
        lines.append(f"\n**Unfinished: {missing} of {len(list(cells(asked)))} checkpoints are missing.**")
    return "\n".join(lines)


def _whole(asked: argparse.Namespace) -> Path:
    return asked.output / "results" / "whole.json"


def _rows(removed: int, choice: str, results: dict[Cell, dict[str, Any]]) -> Iterator[str]:
    """The bare cut of a choice, and each of its repairs."""
    for repair in repairs_of(choice):
        mine = [
            found
            for cell, found in results.items()
            if (cell.removed, cell.choice, cell.repair) == (removed, choice, repair)
        ]
        done = [found for found in mine if "refused" not in found]
        if mine and not done:
            yield f"| {removed} | {choice} | {repair} | refused: {mine[0]['refused']} |"
        if done:
            yield _line(removed, choice, repair, done)


def _line(removed: int, choice: str, repair: str, done: list[dict[str, Any]]) -> str:
    values = [_spread([found["perplexity"][i] for found in done]) for i in range(len(done[0]["perplexity"]))]
    values += _accuracies(done[0])
    gone = ", ".join(map(str, done[0]["removed"]))
    counted = ("choosing",) if repair == "none" else ("choosing", "repairing")
    seconds = statistics.mean(sum(found["seconds"][stage] for stage in counted) for found in done)
    bare = "–" if repair == "none" else repair
    return f"| {' | '.join([str(removed), choice, bare, *values, gone, f'{seconds:.0f}'])} |"


def _accuracies(found: dict[str, Any]) -> list[str]:
    """On each of the tasks, with its standard error."""
    accuracies = [result for result in found.get("tasks", ()) if result["metric"] == "accuracy"]
    return [f"{result['value']:.3f} ± {result['stderr']:.3f}" for result in accuracies]


def _title(path: str) -> str:
    """data/piqa/test.jsonl → piqa."""
    return Path(path).parent.name if Path(path).stem in ("test", "train") else Path(path).stem


def _spread(values: list[float]) -> str:
    each = f" ({', '.join(f'{value:.1f}' for value in values)})" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{each}"


def main() -> None:
    """Runs what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    texts = [str(LAB / "text/wikitext2-test.txt"), str(LAB / "text/c4.jsonl")]
    parser.add_argument("--model", default=str(LAB / "model"))
    parser.add_argument("--calibration", default=str(LAB / "text/wikipedia.jsonl"))
    parser.add_argument("--eval", nargs="+", default=texts)
    parser.add_argument("--tasks", nargs="*", default=[], help="choices to answer, all rows, of draw 0")
    parser.add_argument("--removed", nargs="+", type=int, default=[4], help="numbers of layers")
    parser.add_argument("--draws", type=int, default=1, help="of the calibration samples")
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), choices=CHOICES)
    repairs = sorted({repair for choice in CHOICES for repair in repairs_of(choice)})
    parser.add_argument("--repairs", nargs="+", default=repairs, choices=repairs)
    parser.add_argument("--samples", type=int, default=128, help=f"of calibration, of {LENGTH} tokens each")
    parser.add_argument("--limit", type=int, default=200, help="windows of 256 of each text")
    parser.add_argument("--repair-layers", type=int, help="1 is the paper's projection")
    parser.add_argument("--json", type=Path, help="also writes all that is there into this file")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--output", type=Path, default=Path("out/training-free"))
    asked = parser.parse_args()
    (asked.output / "results").mkdir(parents=True, exist_ok=True)
    if not asked.table:
        if not _whole(asked).exists():
            tasks = on_tasks(asked.model, asked)
            write_json(_whole(asked), {"perplexity": perplexities(asked.model, asked), "tasks": tasks})
        for cell in cells(asked):
            measure(cell, asked)
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{torch.get_num_threads()} thread(s); {Path(asked.model).name}, "
        f"{asked.samples} x {LENGTH} tokens of "
        f"{Path(asked.calibration).name}, {asked.limit} windows of 256\n"
    )
    print(table(asked))
    if asked.json:
        write_json(asked.json, everything(asked))


def everything(asked: argparse.Namespace) -> dict[str, Any]:
    """What `tables.py` reads: the whole model and every checkpoint that is there, as data."""
    cells_made = []
    for cell in cells(asked):
        if cell.result(asked.output).exists():
            found = json.loads(cell.result(asked.output).read_text())
            kept = {key: found[key] for key in ("perplexity", "refused", "seconds") if key in found}
            cells_made.append({**asdict(cell), **kept, "layers": found.get("removed", [])})
    return {
        "model": Path(asked.model).name,
        "samples": asked.samples,
        "windows": asked.limit,
        "texts": [Path(text).stem for text in asked.eval],
        "repairs": asked.repairs,
        "whole": json.loads(_whole(asked).read_text()),
        "cells": cells_made,
        "missing": len(list(cells(asked))) - len(cells_made),
    }


if __name__ == "__main__":
    main()
