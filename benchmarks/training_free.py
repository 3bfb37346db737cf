"""Pruning without training: who chooses the layers, and what repairs the rest.

    python benchmarks/training_free.py --removed 4 2 5 --draws 3 --output out/training-free

Every choice of layers is measured bare and with each repair that it allows: GradMAP's projection, ReplaceMe's
linear map and LLM-Streamline's trained layer where the layers are neighbours, and flatten, which chooses too.
Perplexity on two texts, for several draws of the calibration samples. Each run has a folder of its own, so
that a call that was killed goes on; `--table` prints what is there and says what is missing. Seconds are of
choosing for a bare cut, and of choosing, repairing, saving and checking for a repaired one.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from depthprune import UserError, load_recipe, run

LAB = Path("../shared/lab")
UNTRAINED = {"training.method": "none"}
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "loss, iterative (SLEB)": ("sleb", {}),
    "gradient norm, iterative (GradMAP)": ("gradmap", {}),
    "block influence, iterative": ("shortgpt-iterative", {}),
    "angular, one block (ReplaceMe)": ("replaceme", {}),
    "cosine, one block (LLM-Streamline)": ("llm-streamline", {}),
    "last layers": ("reverse", UNTRAINED),
    **{f"random, seed {seed}": ("random", {**UNTRAINED, "importance.seed": seed}) for seed in range(5)},
    "flatten": ("flatten", {}),
}
OF_BLOCKS = {
    "angular, one block (ReplaceMe)": ("projection", "linear", "flatten"),
    "cosine, one block (LLM-Streamline)": ("replacement-layer",),
    "flatten": ("flatten",),
}
SCATTERED = ("projection", "flatten")


@dataclass(frozen=True)
class Cell:
    """One run: so many layers, chosen and repaired in a way, on one draw of the calibration samples."""

    removed: int
    choice: str
    repair: str
    draw: int

    def folder(self, output: Path) -> Path:
        """Where it is run."""
        name = f"{self.removed} {self.choice} {self.repair} draw {self.draw}"
        return output / "-".join("".join(c if c.isalnum() else " " for c in name).split())


def cells(asked: argparse.Namespace) -> Iterator[Cell]:
    """The draws outermost within each number of layers, so that a part of the work is a whole draw."""
    for removed in asked.removed:
        for draw in range(asked.draws):
            for choice in asked.choices:
                for repair in OF_BLOCKS.get(choice, SCATTERED):
                    yield Cell(removed, choice, repair, draw)


def measure(cell: Cell, asked: argparse.Namespace) -> None:
    """Runs a cell unless that was done, and keeps what it found in `result.json`."""
    folder = cell.folder(asked.output)
    result = folder / "depthprune" / "result.json"
    if result.exists():
        return
    name, settings = CHOICES[cell.choice]
    fewer = asked.repair_layers and cell.repair == "projection"
    start = time.perf_counter()
    try:
        run(
            load_recipe(
                name,
                **{
                    "model": asked.model,
                    "calibration": asked.calibration,
                    "eval": tuple(asked.eval),
                    "seed": cell.draw,
                    **settings,
                    "selection.ratio": None,
                    "selection.num_removed": cell.removed,
                    "recovery.method": cell.repair,
                    "evaluation.max_length": 256,
                    "evaluation.limit": asked.limit,
                    **({"recovery.layers": asked.repair_layers} if fewer else {}),
                },
            ),
            folder,
        )
    except UserError as refusal:
        found: dict[str, Any] = {"refused": str(refusal)}
    else:
        found = _found(folder)
    result.parent.mkdir(parents=True, exist_ok=True)
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(found, indent=2))
    partial.replace(result)
    print(f"{folder.name}: {time.perf_counter() - start:.0f} s", flush=True)


def _found(folder: Path) -> dict[str, Any]:
    own = {file.stem: json.loads(file.read_text()) for file in (folder / "depthprune").glob("*.json")}
    rows, stages = own["eval"]["rows"], own["stages"]
    texts = {
        name: [result["value"] for result in row["results"] if result["metric"] == "perplexity"]
        for name, row in rows.items()
    }
    choosing = sum(stages[name]["seconds"] for name in ("score", "select") if name in stages)
    return {
        "removed": own["plan"]["removed"],
        "changed": own["recovery"]["changed_layers"],
        "base": texts["base"],
        "bare": texts["pruned"],
        "repaired": texts.get("repaired", texts["pruned"]),
        "seconds": {"choosing": choosing, "repairing": stages["prune"]["seconds"]},
    }


def table(asked: argparse.Namespace) -> str:
    """Markdown: a row a choice and repair, means over draws, and each draw's where there are several."""
    results = {}
    for cell in cells(asked):
        path = cell.folder(asked.output) / "depthprune" / "result.json"
        if path.exists():
            results[cell] = json.loads(path.read_text())
    texts = " | ".join(Path(text).stem for text in asked.eval)
    lines = [f"| layers gone | chosen by | repair | {texts} | removed (draw 0) | seconds |"]
    lines.append("|---|---|---|" + "---|" * (len(asked.eval) + 2))
    whole = next((found for found in results.values() if "base" in found), None)
    if whole:
        lines.append("| 0 | – | – | " + " | ".join(f"{value:.1f}" for value in whole["base"]) + " | – | – |")
    for removed in asked.removed:
        for choice in asked.choices:
            for row in _rows(removed, choice, results):
                lines.append(row)
    missing = sum(1 for cell in cells(asked) if cell not in results)
    if missing:
        lines.append(f"\n**Unfinished: {missing} of {len(list(cells(asked)))} runs are missing.**")
    return "\n".join(lines)


def _rows(removed: int, choice: str, results: dict[Cell, dict[str, Any]]) -> Iterator[str]:
    """The bare cut of a choice, and each of its repairs."""
    for i, repair in enumerate(OF_BLOCKS.get(choice, SCATTERED)):
        mine = [
            found
            for cell, found in results.items()
            if (cell.removed, cell.choice, cell.repair) == (removed, choice, repair)
        ]
        done = [found for found in mine if "refused" not in found]
        if mine and not done:
            yield f"| {removed} | {choice} | {repair} | refused: {mine[0]['refused']} |"
        if not done:
            continue
        if i == 0 and choice != "flatten":
            yield _line(removed, choice, "–", done, "bare", [found["seconds"]["choosing"] for found in done])
        yield _line(
            removed, choice, repair, done, "repaired", [sum(found["seconds"].values()) for found in done]
        )


def _line(
    removed: int, choice: str, repair: str, done: list[dict[str, Any]], which: str, seconds: list[float]
) -> str:
    values = [_spread([found[which][i] for found in done]) for i in range(len(done[0][which]))]
    gone = ", ".join(map(str, done[0]["removed"]))
    cells_of_row = [str(removed), choice, repair, *values, gone, f"{statistics.mean(seconds):.0f}"]
    return f"| {' | '.join(cells_of_row)} |"


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
    parser.add_argument("--removed", nargs="+", type=int, default=[4], help="numbers of layers")
    parser.add_argument("--draws", type=int, default=1, help="of the calibration samples")
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), choices=CHOICES)
    parser.add_argument("--limit", type=int, default=200, help="windows of 256 of each text")
    parser.add_argument("--repair-layers", type=int, help="1 is the paper's projection")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    parser.add_argument("--output", type=Path, default=Path("out/training-free"))
    asked = parser.parse_args()
    if not asked.table:
        for cell in cells(asked):
            measure(cell, asked)
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{torch.get_num_threads()} thread(s); {Path(asked.model).name}, "
        f"calibration {Path(asked.calibration).name}, {asked.limit} windows of 256\n"
    )
    print(table(asked))


if __name__ == "__main__":
    main()
