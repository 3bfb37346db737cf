"""Pruning without training: who chooses the layers, and what repairs the rest.

    python benchmarks/training_free.py --output out/training-free

Every choice of a quarter of the layers is measured bare, with a projection (GradMAP's stage 2) and, where
the layers are neighbours, with ReplaceMe's linear map. Each line is one run into a folder of its own, so that
a call that was killed goes on; the table is printed when all of them are done. Seconds are those of scoring
for a bare cut, and of repairing, saving and checking for a repaired one.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from depthprune import load_recipe, run

LAB = Path("../shared/lab")
SEEDS = range(5)
CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "gradient norm, iterative": ("gradmap", {}),
    "gradient norm, one-shot": ("gradmap", {"selection.method": "one-shot"}),
    "block influence, one-shot": ("shortgpt", {}),
    "block influence, iterative": ("shortgpt-iterative", {}),
    "angular, one block": ("replaceme", {}),
    "last layers": ("reverse", {"training.method": "none"}),
    **{
        f"random, seed {seed}": ("random", {"training.method": "none", "importance.seed": seed})
        for seed in SEEDS
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=str(LAB / "model"))
    parser.add_argument("--calibration", default=str(LAB / "text/wikipedia.jsonl"))
    parser.add_argument("--eval", default=str(LAB / "text/wikitext2-test.txt"))
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--repair-layers", type=int, help="1 is the paper's projection")
    parser.add_argument("--output", type=Path, default=Path("out/training-free"))
    asked = parser.parse_args()
    lines = [row for choice in CHOICES for row in rows_of(choice, asked)]
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{torch.get_num_threads()} thread(s); {asked.model} at ratio {asked.ratio}, calibration "
        f"{Path(asked.calibration).name}, perplexity on {Path(asked.eval).name}, {lines[0]['windows']} "
        f"windows of 256; whole model {lines[0]['base']:.1f}\n"
    )
    print("| chosen by | removed | repair | perplexity | held-out loss | layers changed | seconds |")
    print("|---|---|---|---|---|---|---|")
    for line in lines:
        removed, changed = (", ".join(map(str, line[key])) for key in ("removed", "changed"))
        print(
            f"| {line['choice']} | {removed} | {line['repair']} | {line['perplexity']:.1f} "
            f"| {line['held_out']:.4f} | {changed or '–'} | {line['seconds']:.1f} |"
        )


def rows_of(choice: str, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """One choice of layers: bare, with a projection, and with a linear map where they are neighbours."""
    bare, projected = measure(choice, "projection", asked)
    found = [bare, projected]
    layers = bare["removed"]
    if layers[0] > 0 and layers[-1] - layers[0] + 1 == len(layers):
        found.append(measure(choice, "linear", asked)[1])
    return found


def measure(choice: str, repair: str, asked: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The bare cut and the repaired model of one run, or of what an earlier call left of it."""
    name, settings = CHOICES[choice]
    fewer = asked.repair_layers and repair == "projection"
    one_layer = {"recovery.layers": asked.repair_layers} if fewer else {}
    recipe = load_recipe(
        name,
        **{
            "model": asked.model,
            "calibration": asked.calibration,
            "eval": asked.eval,
            **settings,
            "selection.ratio": asked.ratio,
            "recovery.method": repair,
            "evaluation.max_length": 256,
            "evaluation.limit": 200,
            **one_layer,
        },
    )
    folder = run(
        recipe,
        asked.output / f"{choice} {repair}{asked.repair_layers or ''}".replace(", ", "-").replace(" ", "-"),
    )
    own = {file.stem: json.loads(file.read_text()) for file in (folder / "depthprune").glob("*.json")}
    perplexity = {
        name: next(result for result in row["results"] if result["metric"] == "perplexity")
        for name, row in own["eval"]["rows"].items()
    }
    stages, held_out = own["stages"], own["recovery"]["held_out_loss"]
    common = {"choice": choice, "removed": own["plan"]["removed"], "windows": perplexity["base"]["n"]}
    common |= {"base": perplexity["base"]["value"]}
    bare = {
        **common,
        "repair": "–",
        "perplexity": perplexity["pruned"]["value"],
        "changed": [],
        "held_out": held_out["before"],
        "seconds": stages["score"]["seconds"],
    }
    repaired = {
        **common,
        "repair": repair,
        "perplexity": perplexity.get("repaired", perplexity["pruned"])["value"],
        "changed": own["recovery"]["changed_layers"],
        "held_out": held_out["after"],
        "seconds": stages["prune"]["seconds"],
    }
    return bare, repaired


if __name__ == "__main__":
    main()
