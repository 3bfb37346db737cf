"""All verbs, and what a call of one ends with. Nothing here imports torch before the arguments are parsed."""

import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import typer
from typer.exceptions import TyperException

from depthprune.cli import launched, process, terminal
from depthprune.cli.bench_verb import bench
from depthprune.cli.compare_verb import compare
from depthprune.cli.interruption import LINE, Interrupted, interruptible
from depthprune.cli.model_verbs import export, inspect, prune, push, verify
from depthprune.cli.options import Json, Output
from depthprune.cli.other_verbs import report, schema
from depthprune.cli.run_verbs import evaluate, run, score, train
from depthprune.errors import UserError, disk_fault

app = typer.Typer(
    help="Make a language model shallower: prune layers, repair, fine-tune, keep a standard checkpoint.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def methods(as_json: Json = False) -> None:
    """List the recipes: what each does, what it needs and costs, and its paper."""
    from depthprune.cli import display

    display.show_methods(as_json)


def demo(output: Output = Path("out/demo"), as_json: Json = False) -> None:
    """Tune, prune by 40 % and compare, on a small model and a task that come with depthprune."""
    from depthprune.cli import display
    from depthprune.demo.run import run_demo

    display.show_evaluation(run_demo(output), as_json)


# In the order of `depthprune --help`.
_RUNS = (run, compare, score, prune, train, evaluate)
_MODELS = (bench, verify, export, push, inspect, report)
for _verb in (*_RUNS, *_MODELS, methods, schema, demo):
    app.command()(_verb)


def main() -> None:
    """Runs a verb. Exit codes: 0 done, 2 the input is wrong, 1 a fault of ours, 128 + n ended by signal n."""
    process.settle()
    terminal.prepare()
    terminal.quiet()
    try:
        with interruptible():
            code = _run_verb()
    except Interrupted as interrupted:
        code = _say(LINE, interrupted.code)
    launched.leave(code)
    sys.exit(code)


def _run_verb() -> int | None:
    try:
        launched.join(sys.argv[1:])
        return app(standalone_mode=False)
    except UserError as problem:
        return _say(f"error: {problem}", 2)
    except TyperException as problem:
        return _say(f"error: {problem.format_message()} See `depthprune --help`.", 2)
    except Exception as problem:
        if fault := disk_fault(problem):
            return _say(f"error: {fault}", 2)
        if launched.by_another(problem):
            return _say(f"error: {launched.LOST}", 1)
        log = _write_traceback()
        return _say(
            f"depthprune failed: {type(problem).__name__}: {_first_line(problem)} (traceback in {log})", 1
        )


def _say(line: str, code: int) -> int:
    """Says how the call ends; of several processes the first to end does, and all end with its code."""
    told, speaks = launched.tell(code)
    if speaks:
        typer.echo(terminal.one_line(line), err=True)
    return told


def _first_line(problem: Exception) -> str:
    return next(iter(str(problem).splitlines()), "")


def _write_traceback() -> Path:
    options: Any = {"encoding": "utf-8", "errors": "backslashreplace"}
    with tempfile.NamedTemporaryFile(
        "w", prefix="depthprune-", suffix=".log", delete=False, **options
    ) as file:
        traceback.print_exc(file=file)
    return Path(file.name)
