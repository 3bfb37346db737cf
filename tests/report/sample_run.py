"""Run folders as the pipeline leaves them, without a run: every artifact written by hand."""

import json
import math
import random
from pathlib import Path
from typing import Any

import yaml

from depthprune.pipeline.folder import RunFolder
from depthprune.recipe.load import load_recipe
from depthprune.selection import Plan

STAGES = ("score", "select", "prune", "baseline", "train", "evaluate")
ROWS = ("base", "base+tuned", "pruned", "pruned+tuned")


def sample_scores(num_layers: int = 16, steps: int = 40, seed: int = 0) -> dict[str, Any]:
    """As of IGIA: two empty steps, later ones carry more, and layers differ by orders of magnitude."""
    noise = random.Random(seed)
    weight = [math.exp(noise.gauss(0, 1.5) + (3 if i == 0 else 0)) for i in range(num_layers)]
    course = [
        [0.0 if t < 2 else w * t * noise.uniform(0.5, 1.5) * 1e-6 for w in weight] for t in range(steps)
    ]
    scores = [sum(step[i] for step in course) / steps for i in range(num_layers)]
    linears = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
    return {
        "metric": "igia",
        "scores": scores,
        "samples": 4 * steps,
        "steps": steps,
        "course": course,
        "scored": sorted(f"model.layers.{i}.{name}" for i in range(num_layers) for name in linears),
        "seconds": 41.27,
        "peak_bytes": 1_234_567_890,
        "rounds": [],
    }


def sample_plan(scores: list[float], removed: int, merged: int = 0) -> Plan:
    """The lowest-scored layers go; the most important `merged` of them go into the kept layer before."""
    order = sorted(range(len(scores)), key=lambda i: scores[i])[:removed]
    plan = Plan(len(scores), tuple(sorted(order)), metric="igia", selection="one-shot")
    into = {i: max(k for k in plan.kept if k < i) for i in order[removed - merged :]}
    return plan.merging(into, ["Something about the plan."])


def sample_evaluation(datasets: tuple[str, ...] = ("news",), seed: int = 1) -> dict[str, Any]:
    """Accuracy on the first datasets, perplexity on the last if there are several."""
    noise, rows = random.Random(seed), {}
    for name, level in zip(ROWS, (0.24, 0.76, 0.25, 0.75), strict=True):
        results: list[dict[str, Any]] = []
        for i, dataset in enumerate(datasets):
            if i and i == len(datasets) - 1:
                value = 60 / level * noise.uniform(0.9, 1.1)
                results.append(
                    {"dataset": dataset, "metric": "perplexity", "value": value, "n": 200, "stderr": 1.31}
                )
                continue
            value = level + noise.uniform(-0.03, 0.03)
            error = math.sqrt(value * (1 - value) / 1600)
            found = {"dataset": dataset, "metric": "accuracy", "value": value, "n": 1600, "stderr": error}
            results.append({**found, "majority": 0.2525})
        pruned = name.startswith("pruned")
        size = {"parameters": 4_960_480 if pruned else 6_912_160, "layers": 10 if pruned else 16}
        rows[name] = {**size, "results": results, "seconds": 9.1 if pruned else 13.2}
    return {"rows": rows}


def sample_losses(steps: int = 130) -> list[dict[str, Any]]:
    """Of the pruned model and the control, and the Trainer's closing lines, which hold no loss."""
    noise, lines = random.Random(2), []
    for stage, floor in (("train", 0.55), ("baseline", 0.5)):
        for step in range(2, steps + 1, 2):
            loss = floor + 2.5 * math.exp(-step / 25) + noise.gauss(0, 0.03)
            lines.append({"stage": stage, "loss": loss, "step": step, "epoch": step / steps})
            lines[-1]["num_input_tokens_seen"] = 1000 * step
        lines.append({"stage": stage, "train_runtime": 120.5, "train_loss": 0.9, "step": steps, "epoch": 1.0})
    return lines


def sample_recovery(plan: Plan) -> dict[str, Any]:
    """What the same-sign merge reports."""
    rows = [
        {"layer": gone, "into": into, "elements": 59_904, "added": 30_111 + gone, "skipped": []}
        for gone, into in plan.merged_into.items()
    ]
    return {"method": "same-sign-merge", "merged": rows}


def sample_run(root: Path, num_layers: int = 16, until: str = "evaluate", **changes: Any) -> RunFolder:
    """A run folder of a whole run of `gradpruner`, or of one that ended after the stage `until`.

    `changes` replace an artifact: `evaluation`, `plan`, `scores`, or keys of the recipe as `recipe`.
    """
    folder = RunFolder(root)
    folder.own.mkdir(parents=True)
    scores = changes.get("scores", sample_scores(num_layers))
    plan = changes.get("plan", sample_plan(scores["scores"], round(0.4 * num_layers), num_layers // 16))
    stages = STAGES[: STAGES.index(until) + 1]
    written: dict[str, dict[str, Any]] = {
        "score": {"scores.json": scores},
        "select": {"plan.json": plan.to_json()},
        "prune": {"recovery.json": sample_recovery(plan)},
        "baseline": {},
        "train": {"metrics.jsonl": "".join(json.dumps(line) + "\n" for line in sample_losses())},
        "evaluate": {"eval.json": changes.get("evaluation", sample_evaluation())},
    }
    named = {"model": "some-org/some-model", "train": "news.jsonl", **changes.get("recipe", {})}
    recipe = load_recipe("gradpruner", **named)
    folder.write("recipe.yaml", recipe.as_yaml())
    costs = {
        stage: {"digest": "d", "seconds": 3.7 * 3**i, "peak_bytes": 10**9 + i}
        for i, stage in enumerate(stages)
    }
    folder.write("stages.json", costs)
    for stage in stages:
        for name, content in written[stage].items():
            folder.write(name, content)
    if "prune" in stages:
        config = {"model_type": "llama", "num_hidden_layers": len(plan.kept), "dtype": "bfloat16"}
        (root / "config.json").write_text(json.dumps(config))
    return folder


def front_matter(card: str) -> dict[str, Any]:
    """The YAML at the head of a model card."""
    return yaml.safe_load(card.split("---\n")[1])


def sample_rounds(scores: dict[str, Any], removed: list[int]) -> list[dict[str, Any]]:
    """An iterative selection that removed one layer a round."""
    rounds, gone = [], []
    for layer in removed:
        left = [None if i in gone else score + len(gone) for i, score in enumerate(scores["scores"])]
        rounds.append({"removed": [layer], "scores": left, "samples": 128, "seconds": 12.5})
        gone.append(layer)
    return rounds


def sample_repair(plan: Plan) -> dict[str, Any]:
    """What a projection reports that changed one layer and left another."""
    candidates = [
        {"rho": rho, "held_out_loss": 4.7 - share, "held_out_error": 1 - share}
        for rho, share in ((None, 0.0), (0.1, 0.25), (1.0, 0.125))
    ]
    kept = list(plan.kept)
    return {
        "method": "projection",
        "changed_layers": [kept[1]],
        "repairs": [
            {"layer": kept[1], "target": kept[1] + 1, "rho": 0.1, "lambda": 12.0, "candidates": candidates},
            {"layer": kept[2], "target": kept[2], "rho": None, "lambda": None, "candidates": candidates[:1]},
        ],
        "drift": {"layers": kept, "before": [3.0] * len(kept), "after": [1.0] * len(kept)},
        "held_out_loss": {"before": 4.7, "after": 4.45},
    }
