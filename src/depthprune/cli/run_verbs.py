"""The verbs that run a recipe, or some of its stages. None imports torch before its arguments are parsed."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from depthprune.cli.options import (
    CalibrationData,
    ChatTemplate,
    Eval,
    Json,
    Model,
    Output,
    Overrides,
    Overwrite,
    Ratio,
    RecipeName,
    TargetLatency,
    TargetMemory,
    TargetParameters,
    Train,
    TrustRemoteCode,
    Until,
    Weights,
    recipe_of,
    target_of,
)
from depthprune.errors import UserError

log = logging.getLogger("depthprune")


def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    model: Model = None,
    weights: Weights = None,
    train: Train = None,
    eval: Eval = None,
    calibration: CalibrationData = None,
    ratio: Ratio = None,
    target_parameters: TargetParameters = None,
    target_memory: TargetMemory = None,
    target_latency: TargetLatency = None,
    chat_template: ChatTemplate = None,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Also tune the whole model, the fair control.")
    ] = False,
    until: Annotated[Until, typer.Option(help="End after this stage.")] = "evaluate",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, its cost and the disk it needs.")
    ] = False,
    output: Output = Path("out"),
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Prune a model by a recipe: score, select, prune, train, evaluate. Called again, it goes on."""
    target = target_of(
        ratio, overrides, parameters=target_parameters, memory=target_memory, latency=target_latency
    )
    resolved = recipe_of(
        recipe,
        overrides,
        model=model,
        weights=weights,
        train=train,
        eval=eval,
        calibration=calibration,
        chat_template=chat_template,
        baseline=baseline,
        trust_remote_code=trust_remote_code,
        **{"selection.ratio": ratio},
    )
    from depthprune.cli import display
    from depthprune.pipeline.run import run as run_pipeline

    said = {}
    if target is not None:
        from depthprune.pipeline.target import resolve

        resolved, said["target"] = resolve(resolved, target)
    if dry_run:
        from depthprune.pipeline.estimate import estimate

        display.show_estimate(estimate(resolved, output) | said, as_json)
        return
    for line in said.values():
        log.info("%-8s %s", "target", line)
    folder = run_pipeline(resolved, output, until, overwrite)
    display.show_run(folder, until, as_json)


def score(
    recipe: RecipeName,
    overrides: Overrides = None,
    model: Model = None,
    train: Train = None,
    calibration: CalibrationData = None,
    chat_template: ChatTemplate = None,
    output: Output = Path("out"),
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Score the layers by a recipe's metric; `run` with the same recipe and output goes on from there."""
    resolved = recipe_of(
        recipe,
        overrides,
        model=model,
        train=train,
        calibration=calibration,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
    )
    from depthprune.cli import display
    from depthprune.pipeline.run import run as run_pipeline

    display.show_run(run_pipeline(resolved, output, "score", overwrite), "score", as_json)


def train(
    model: Annotated[str, typer.Option(help="Model folder or hub id.")],
    train: Annotated[str, typer.Option(help="Training data.")],
    output: Output,
    overrides: Overrides = None,
    eval: Eval = None,
    chat_template: ChatTemplate = None,
    overwrite: Overwrite = False,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a checkpoint as a recipe would, without pruning it: training.method=full, …"""
    resolved = recipe_of(
        "finetune",
        overrides,
        model=model,
        train=train,
        eval=eval,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
    )
    from depthprune.cli import display
    from depthprune.pipeline.run import run as run_pipeline

    display.show_run(run_pipeline(resolved, output, overwrite=overwrite), "evaluate", as_json)


def evaluate(
    model: Annotated[str, typer.Option(help="Model folder or hub id.")],
    overrides: Overrides = None,
    eval: Eval = None,
    tasks: Annotated[
        str | None, typer.Option(help="Tasks of lm-evaluation-harness: arc_easy,gsm8k, … (extra `eval`).")
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(help="A folder with tasks of your own for --tasks.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(help="Examples before each question of --tasks; by default the task's own.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only so many rows (evaluation.limit); of --tasks the first ones.")
    ] = None,
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Measure a model on your data (accuracy, exact match and ROUGE-L, perplexity) or lm-eval's tasks."""
    from depthprune.cli.tasks_display import show_tasks
    from depthprune.evaluation.harness import parse_tasks

    wanted = parse_tasks(tasks, include_path, num_fewshot)
    if wanted is None and not eval:
        raise UserError("nothing to measure: give data with --eval, or lm-eval's tasks with --tasks")
    resolved = recipe_of(
        "finetune",
        overrides,
        model=model,
        eval=eval,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code,
        **{"training.method": "none", "evaluation.limit": limit},
    )
    from depthprune.cli import display
    from depthprune.pipeline.run import evaluate_model

    found = evaluate_model(resolved, wanted)
    if eval or as_json:
        display.show_evaluation(found, as_json)
    if wanted is not None and not as_json:
        show_tasks(found)
