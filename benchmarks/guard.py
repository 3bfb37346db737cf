"""What each layer is worth alone, and what the guard and the second opinion take beside the scoring.

    python benchmarks/guard.py --model ../shared/lab/model --calibration ../shared/lab/text/wikipedia.jsonl

Runs recipes to their plan (`--until select`), each in a folder of its own, and reads what they leave: the
seconds of scores.json and of guard.json, loading the model for the latter included, and the plan's opinion.
Where DEPTHPRUNE_GEMMA names a folder it is measured too, with `--gemma-recipes`.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers

from depthprune import load_recipe, run
from depthprune.selection.guard import perplexity, rounded


def plans(model: str, asked: argparse.Namespace, names: list[str]) -> dict[str, dict[str, Any]]:
    """recipe → scores.json, plan.json and guard.json."""
    found = {}
    for name in names:
        settings = {
            "model": model,
            "calibration": asked.calibration,
            "calibration_samples.samples": asked.samples,
            "selection.num_removed": asked.remove,
            "training.method": "none",
            "arithmetic": "float32",
        }
        with tempfile.TemporaryDirectory() as folder:
            own = run(load_recipe(name, **settings), Path(folder) / "out", until="select") / "depthprune"
            artifacts = ("scores", "plan", "guard")
            found[name] = {one: json.loads((own / f"{one}.json").read_text()) for one in artifacts}
    return found


def costs(found: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "| recipe | removed | scoring | guard and opinion | whole | bare cut | controls | spared |",
        "|---" * 8 + "|",
    ]
    for name, one in found.items():
        opinion = one["plan"]["opinion"]
        controls = "; ".join(
            f"{other['name']} {rounded(other['perplexity'])}" for other in opinion["controls"]
        )
        spared = ", ".join(map(str, opinion.get("guard", {}).get("spared", ()))) or "–"
        cells = [
            name,
            ", ".join(map(str, one["plan"]["removed"])),
            f"{one['scores']['seconds']:.1f} s",
            f"{one['guard']['seconds']:.1f} s",
            rounded(opinion["whole"]),
            rounded(opinion["bare_cut"]),
            controls,
            spared,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def alone(found: dict[str, dict[str, Any]]) -> str:
    """Perplexity without each layer, as a multiple of the whole model's on the same samples."""
    guard = next(one["guard"] for one in found.values() if "without" in one["guard"])
    few = guard["cuts"][""][:8]
    whole = sum(loss for loss, _ in few) / sum(tokens for _, tokens in few)
    times = [rounded(perplexity(loss - whole)) for loss in guard["without"]]
    return "without each layer, times: " + ", ".join(f"{i}: {value}" for i, value in enumerate(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="../shared/lab/model")
    parser.add_argument("--calibration", default="../shared/lab/text/wikipedia.jsonl")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--remove", type=int, default=4)
    parser.add_argument("--recipes", nargs="+", default=["shortgpt", "gradmap", "sleb"])
    parser.add_argument("--gemma-recipes", nargs="+", default=["shortgpt"])
    asked = parser.parse_args()
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{torch.get_num_threads()} thread(s)"
    )
    models = {asked.model: asked.recipes}
    if gemma := os.environ.get("DEPTHPRUNE_GEMMA"):
        models[gemma] = asked.gemma_recipes
    for model, names in models.items():
        found = plans(model, asked, names)
        print(f"\n{Path(model).name}, {asked.samples} × 128 tokens\n")
        print("\n".join(costs(found)))
        print(f"\n{alone(found)}", flush=True)


if __name__ == "__main__":
    main()
