"""Pruning without training: who chooses the layers, and what repairs the rest.

    python benchmarks/training_free.py --output out/training-free

Every choice of a quarter of the layers is measured bare, with a projection (GradMAP's stage 2) and, where
the layers are neighbours, with ReplaceMe's linear map. Each line is one run into a folder of its own, so that
a call that was killed goes on; the table is printed when all of them are done.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from depthprune import UserError, load_recipe, run

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
REPAIRS = ("none", "projection", "linear")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=str(LAB / "model"))
    parser.add_argument("--calibration", default=str(LAB / "text/wikipedia.jsonl"))
    parser.add_argument("--eval", default=str(LAB / "text/wikitext2-test.txt"))
    parser.add_argument("--ratio", type=float, default=0.25)
    parser.add_argument("--output", type=Path, default=Path("out/training-free"))
    asked = parser.parse_args()
    lines = [row for choice in CHOICES for row in rows_of(choice, asked)]
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{torch.get_num_threads()} thread(s); {asked.model} at ratio {asked.ratio}, calibration "
        f"{Path(asked.calibration).name}, perplexity on {Path(asked.eval).name}, {lines[0]['windows']} "
        f"windows of 256; whole model {lines[0]['base']:.1f}\n"
    )
    print("| chosen by | removed | repair | perplexity | repaired layer | held-out loss | score, repair |")
    print("|---|---|---|---|---|---|---|")
    for line in lines:
        print(
            f"| {line['choice']} | {line['removed']} | {line['repair']} | {line['perplexity']:.1f} "
            f"| {line['changed']} | {line['held_out']} | {line['seconds']} |"
        )


def rows_of(choice: str, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """One choice of layers with each repair that fits it."""
    found = []
    for repair in REPAIRS:
        try:
            found.append(measure(choice, repair, asked))
        except UserError as refusal:
            if repair != "linear":
                raise
            print(f"{choice}: {refusal}", flush=True)
    return found


def measure(choice: str, repair: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One run, or what an earlier call left of it."""
    name, settings = CHOICES[choice]
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
        },
    )
    folder = run(recipe, asked.output / f"{choice} {repair}".replace(", ", "-").replace(" ", "-"))
    own = {file.stem: json.loads(file.read_text()) for file in (folder / "depthprune").glob("*.json")}
    perplexity = {
        name: next(result for result in row["results"] if result["metric"] == "perplexity")
        for name, row in own["eval"]["rows"].items()
    }
    last, stages, held_out = list(perplexity)[-1], own["stages"], own["recovery"].get("held_out_loss")
    return {
        "choice": choice,
        "repair": repair,
        "removed": ", ".join(map(str, own["plan"]["removed"])),
        "base": perplexity["base"]["value"],
        "windows": perplexity["base"]["n"],
        "perplexity": perplexity[last]["value"],
        "changed": ", ".join(map(str, own["recovery"]["changed_layers"])) or "–",
        "held_out": f"{held_out['before']:.4f} → {held_out['after']:.4f}" if held_out else "–",
        "seconds": f"{stages['score']['seconds']:.1f} s, {stages['prune']['seconds']:.1f} s",
    }


if __name__ == "__main__":
    main()
