"""What a run did, in sentences that its artifacts bear out."""

import math
import re
from collections import Counter
from typing import Any

from depthprune.importance import METRICS
from depthprune.report.artifacts import Artifacts
from depthprune.report.figures import percent, plural, runs
from depthprune.report.plots import gathered
from depthprune.report.tuned import tuning
from depthprune.selection import Plan
from depthprune.selection.pairs import named, spoken, spoken_silence

STAGES = {
    "score": "scoring the layers",
    "select": "choosing the layers",
    "prune": "removing them, saving and checking",
    "answers": "letting the whole model answer the prompts",
    "train": "fine-tuning the pruned model",
    "baseline": "fine-tuning the whole model (control)",
    "evaluate": "evaluating every model",
}


def summary(run: Artifacts, model: str) -> str:
    """What was done to `model`, in a sentence or two."""
    if run.plan is None:
        if run.scores is None or run.scores["metric"] == "none":
            return f"Nothing has been done to {model} yet."
        layers = f"{len(run.scores['scores'])} layers"
        return f"The {layers} of {model} were scored by {_by(run)}; none was removed yet."
    plan = run.plan
    layers, one = f"{len(plan.removed)} of {plan.num_layers} layers", len(plan.removed) == 1
    if "prune" not in run.stages:
        are = "is" if one else "are"
        return f"{layers} of {model} {are} to be removed, {_chosen(run)}; the model is not written yet."
    said = f"{layers} of {model} {'was' if one else 'were'} removed, {_chosen(run)}"
    merged = len(plan.merged_into)
    flattened = (run.recovery or {}).get("method") == "flatten"
    if flattened and run.recovery["changed_layers"]:  # type: ignore[index]
        fitted = run.recovery["changed_layers"]  # type: ignore[index]
        were = "layer {} was" if len(fitted) == 1 else "layers {} were"
        said += f"; {were.format(dash_ranges(fitted))} fitted to do what their removed neighbours did too"
    if merged and not flattened:
        them = "the kept layer before it" if merged == 1 else "the kept layers before them"
        said += f"; {merged} of them {'was' if merged == 1 else 'were'} first merged into {them}"
    if plan.mlp_from:
        said += f"; {with_other_mlps(plan)}"
    if plan.silenced:
        said += f"; gone alone, as zeros: {spoken_silence(plan.silenced)}"
    if run.repaired:
        noun = "layer" if len(run.repaired) == 1 else "layers"
        said += f"; {noun} {dash_ranges(run.repaired)} repaired by a linear map"
    if (run.recovery or {}).get("stands_for") and run.recovery["changed_layers"]:  # type: ignore[index]
        first, *others = run.recovery["stands_for"]  # type: ignore[index]
        said += f"; layer {first} was trained to stand for {dash_ranges(others)} too"
    return said + (f". What remains was fine-tuned ({tuning(run)})." if run.tuned else ".")


def chooser(run: Artifacts) -> str:
    """The metric that the plan rests on, or the recovery that chose the layers itself."""
    assert run.plan is not None
    if run.plan.selection == "by-recovery" and run.recipe:
        return str(run.recipe["recovery"]["method"])
    return run.plan.metric


def with_other_mlps(plan: Plan) -> str:
    """Which kept layers are made of two, in words."""
    taken = [
        f"layer {kept} has the MLP of layer {gone}" if number == 0 else f"{kept} that of {gone}"
        for number, (kept, gone) in enumerate(sorted(plan.mlp_from.items()))
    ]
    return ", ".join(taken) + " in place of its own"


def _chosen(run: Artifacts) -> str:
    assert run.plan is not None
    if run.plan.selection == "by-recovery":
        return f"chosen by {chooser(run)}"
    return "as listed" if run.plan.selection == "explicit" else f"chosen by {_by(run)}, {run.plan.selection}"


def _by(run: Artifacts) -> str:
    scores = run.scores or {}
    metric = scores.get("metric") or (run.plan.metric if run.plan else "")
    over = f" over {plural(scores['samples'], 'sample')}" if scores.get("samples") else ""
    return f"{metric}{over}"


def opinions(run: Artifacts) -> list[tuple[str, str, float]]:
    """What was cut, which layers went, and the perplexity: the whole model, the plan, and cheap controls."""
    if run.plan is None or "whole" not in run.plan.opinion:
        return []
    found = run.plan.opinion
    controls = [(one["name"], dash_ranges(one["removed"]), one["perplexity"]) for one in found["controls"]]
    plan = ("this plan, the bare cut", dash_ranges(run.plan.removed), found["bare_cut"])
    return [("the whole model", "–", found["whole"]), plan, *controls]


def round_(number: int, found: dict[str, Any]) -> dict[str, Any]:
    """One round of an iterative selection: what went, its scores, and the lowest score that stayed."""
    scores, removed = found["scores"], found["removed"]
    if "pairs" in found or "sublayers" in found:
        return _round_of_pairs(number, found)
    staying = [score for i, score in enumerate(scores) if score is not None and i not in removed]
    return {
        "number": number,
        "removed": ", ".join(map(str, removed)),
        "scores": [scores[i] for i in removed],
        "lowest_kept": min(staying),
        "seconds": found["seconds"],
    }


def _round_of_pairs(number: int, found: dict[str, Any]) -> dict[str, Any]:
    candidates = (
        [*found["scores"], *found["across"]] if "pairs" in found else found["mlp"] + found["attention"]
    )
    scores = [score for score in candidates if score is not None]
    for chosen in found["chosen"]:
        scores.remove(chosen)
    return {
        "number": number,
        "removed": spoken(found["pairs"]) if "pairs" in found else ", ".join(map(named, found["sublayers"])),
        "scores": found["chosen"],
        "lowest_kept": min(scores),
        "seconds": found["seconds"],
    }


def informed(scores: dict[str, Any]) -> bool:
    """Whether the scores saw weights or data at all; those of `reverse` and `random` are only an order."""
    metric = METRICS.get(scores["metric"])
    return metric is None or metric.needs != "nothing"


def dash_ranges(layers: list[int] | tuple[int, ...]) -> str:
    """2–4, 8: for prose."""
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in runs(layers))


def course_notes(steps: list[list[float]]) -> list[str]:
    """What the course says about t: empty steps, how late the score gathers, since when the order holds."""
    shares, notes = gathered(steps), []
    empty = sum(not any(step) for step in steps)
    if empty:
        notes.append(f"{plural(empty, 'step')} gave nothing: B starts at zero, and so may the learning rate.")
    last = max(1, len(steps) // 4)
    carried = percent(1 - shares[-1 - last])
    quarter = "last step" if last == 1 else f"last {last} steps"
    notes.append(f"The {quarter} of {len(steps)} gave {carried} of the score.")
    return notes


def settled(steps: list[list[float]], removed: int) -> str:
    """Whether t was enough for this choice."""
    since = settled_since(steps, removed)
    if since == len(steps):
        which = f"Which {removed} layers score lowest"
        return f"{which} still changed at the last of {since} steps: more steps may choose others."
    return f"The {removed} lowest-scored layers stay the same from step {since} of {len(steps)} on."


def settled_since(steps: list[list[float]], removed: int) -> int:
    """The first step (from 1) after which the `removed` lowest-scored layers stay those of the end."""
    sums = [0.0] * len(steps[0])
    lowest = []
    for step in steps:
        sums = [math.fsum(pair) for pair in zip(sums, step, strict=True)]
        lowest.append(set(sorted(range(len(sums)), key=lambda i: (sums[i], -i))[:removed]))
    since = len(steps)
    while since > 1 and lowest[since - 2] == lowest[-1]:
        since -= 1
    return since


def scored_linears(paths: list[str]) -> dict[str, int]:
    """Name of a linear inside its layer → in how many layers it was scored."""
    return dict(Counter(re.sub(r"^.*?\.\d+\.", "", path) for path in paths))
