"""The verbs. Nothing here imports torch before the arguments are parsed."""

import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.exceptions import TyperException

from depthprune.cli import process, terminal
from depthprune.cli.interruption import LINE, Interrupted, interruptible
from depthprune.errors import UserError, disk_fault

if TYPE_CHECKING:
    from depthprune.recipe.recipe import Recipe

app = typer.Typer(
    help="Make a language model shallower: prune layers, repair, fine-tune, keep a standard checkpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A name from `depthprune methods`, or a YAML file.")
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="training.method=full, …")
]
Model = Annotated[str | None, typer.Option(help="Model folder or hub id.")]
Train = Annotated[
    str | None, typer.Option(help="Training data: JSONL, JSON, CSV, Parquet, folder, or hub id.")
]
Eval = Annotated[list[str] | None, typer.Option(help="Evaluation data; may be repeated.")]
CalibrationData = Annotated[
    str | None, typer.Option("--calibration", help="Text or rows for metrics without training.")
]
Ratio = Annotated[float | None, typer.Option(help="Share of the layers to remove.")]
Output = Annotated[Path, typer.Option(help="The run folder: becomes the pruned model's own.")]
ChatTemplate = Annotated[
    str | None, typer.Option(help="A Jinja file, where the tokenizer has no chat template.")
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")
]
Until = Literal["score", "select", "prune", "train", "evaluate"]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Delete what a changed recipe replaces, and what was kept of it.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON in place of the table.")]


@app.command()
def run(
    recipe: RecipeName,
    overrides: Overrides = None,
    model: Model = None,
    train: Train = None,
    eval: Eval = None,
    calibration: CalibrationData = None,
    ratio: Ratio = None,
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
    resolved = _recipe(
        recipe,
        overrides,
        model=model,
        train=train,
        eval=tuple(eval) if eval else None,
        calibration=calibration,
        chat_template=chat_template,
        baseline=baseline or None,
        trust_remote_code=trust_remote_code or None,
        **{"selection.ratio": ratio},
    )
    from depthprune.cli import display
    from depthprune.pipeline.run import run as run_pipeline

    if dry_run:
        from depthprune.pipeline.estimate import estimate

        display.show_estimate(estimate(resolved, output), as_json)
        return
    folder = run_pipeline(resolved, output, until, overwrite)
    display.show_run(folder, until, as_json)


@app.command()
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
    resolved = _recipe(
        recipe,
        overrides,
        model=model,
        train=train,
        calibration=calibration,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code or None,
    )
    from depthprune.cli import display
    from depthprune.pipeline.run import run as run_pipeline

    display.show_run(run_pipeline(resolved, output, "score", overwrite), "score", as_json)


@app.command()
def prune(
    model: Annotated[Path, typer.Option(help="Model folder.")],
    remove: Annotated[str, typer.Option(help="The layers that go: 18-30, or 1,3,5-7.")],
    output: Output,
    mlp_from: Annotated[
        str, typer.Option(help="Kept layers that take a removed one's MLP in place of their own: 4:5,8:10.")
    ] = "",
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Remove layers from a checkpoint's files: no model is loaded, the result is a standard one."""
    from depthprune.selection.plan import parse_layers, parse_mlp_from

    layers, mlps = parse_layers(remove), parse_mlp_from(mlp_from)  # before anything slow is imported
    from depthprune.model.checkpoint import prune_files

    prune_files(model, layers, output, trust_remote_code, mlps)
    name = terminal.one_line(str(output))
    typer.echo(f"{name}: written; `depthprune verify {name}` loads it and checks that it works")


@app.command()
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
    resolved = _recipe(
        "finetune",
        overrides,
        model=model,
        train=train,
        eval=tuple(eval) if eval else None,
        chat_template=chat_template,
        trust_remote_code=trust_remote_code or None,
    )
    from depthprune.cli import display
    from depthprune.pipeline.run import run as run_pipeline

    display.show_run(run_pipeline(resolved, output, overwrite=overwrite), "evaluate", as_json)


@app.command()
def evaluate(
    model: Annotated[str, typer.Option(help="Model folder or hub id.")],
    eval: Annotated[list[str], typer.Option(help="Evaluation data; may be repeated.")],
    overrides: Overrides = None,
    chat_template: ChatTemplate = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Measure a model on your data: accuracy, exact match and ROUGE-L, or perplexity, as the rows say."""
    resolved = _recipe(
        "finetune",
        overrides,
        model=model,
        eval=tuple(eval),
        chat_template=chat_template,
        trust_remote_code=trust_remote_code or None,
        **{"training.method": "none"},
    )
    from depthprune.cli import display
    from depthprune.pipeline.run import evaluate_model

    display.show_evaluation(evaluate_model(resolved), as_json)


@app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Model or run folder.")],
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Check that a model folder is whole: it reloads, its cache is right, it generates."""
    from depthprune.model.verify import verify as check

    check(folder, trust_remote_code)
    name = terminal.one_line(str(folder))
    typer.echo(f"{name}: whole; it loads, its cached and uncached logits agree, and it generates")


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="Model folder or hub id.")],
    ratio: Annotated[float, typer.Option(help="Share of the layers to remove.")] = 0.25,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Show a model's layers and parameters, and what its size and speed would be at a ratio."""
    from depthprune.selection import OneShot
    from depthprune.settings import build

    build(OneShot, {"ratio": ratio})  # refused before anything slow is imported
    from depthprune.cli import display
    from depthprune.pipeline.inspection import inspect_model

    display.show_inspection(inspect_model(model, ratio, trust_remote_code), as_json)


@app.command()
def methods(as_json: Json = False) -> None:
    """List the recipes: what each does, what it needs and costs, and its paper."""
    from depthprune.cli import display

    display.show_methods(as_json)


@app.command()
def demo(output: Output = Path("out/demo"), as_json: Json = False) -> None:
    """Tune, prune by 40 % and compare, on a small model and a task that come with depthprune."""
    from depthprune.cli import display
    from depthprune.demo.run import run_demo

    display.show_evaluation(run_demo(output), as_json)


def _recipe(name: str, overrides: list[str] | None, **options: Any) -> "Recipe":
    """The recipe with the options and KEY=VALUE pairs on top; the latter win."""
    from depthprune.recipe.load import load_recipe, parse_override

    values = {key: value for key, value in options.items() if value is not None}
    return load_recipe(name, **{**values, **dict(map(parse_override, overrides or []))})


def main() -> None:
    """Runs a verb. Exit codes: 0 done, 2 the input is wrong, 1 a fault of ours, 128 + n ended by signal n."""
    process.settle()
    terminal.prepare()
    terminal.quiet()
    try:
        with interruptible():
            code = _run_verb()
    except Interrupted as interrupted:
        code = interrupted.code
        if os.environ.get("RANK", "0") == "0":
            _say(LINE, code)
    sys.exit(code)


def _run_verb() -> int | None:
    try:
        return app(standalone_mode=False)
    except UserError as problem:
        return _say(f"error: {problem}", 2)
    except TyperException as problem:
        return _say(f"error: {problem.format_message()} See `depthprune --help`.", 2)
    except Exception as problem:
        if fault := disk_fault(problem):
            return _say(f"error: {fault}", 2)
        log = _write_traceback()
        return _say(
            f"depthprune failed: {type(problem).__name__}: {_first_line(problem)} (traceback in {log})", 1
        )


def _say(line: str, code: int) -> int:
    typer.echo(terminal.one_line(line), err=True)
    return code


def _first_line(problem: Exception) -> str:
    return next(iter(str(problem).splitlines()), "")


def _write_traceback() -> Path:
    options: Any = {"encoding": "utf-8", "errors": "backslashreplace"}
    with tempfile.NamedTemporaryFile(
        "w", prefix="depthprune-", suffix=".log", delete=False, **options
    ) as file:
        traceback.print_exc(file=file)
    return Path(file.name)
