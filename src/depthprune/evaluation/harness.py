"""Tasks of lm-evaluation-harness on a model in memory, with the figures of its own command line.

Neither torch nor lm-eval, an extra, is imported before a task is looked for.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.version import Version
from pydantic import Field

from depthprune.errors import UserError
from depthprune.settings import Settings, build

OLDEST = "0.4.13"
INSTALL = "pip install depthprune[eval]"


class Tasks(Settings):
    """What is asked of lm-eval, by its own names."""

    tasks: tuple[str, ...]
    """Tasks, groups, tags, or patterns of them (`mmlu_*`)."""
    include_path: Path | None = None
    """A folder with definitions of tasks, which stand above those that lm-eval brings along."""
    num_fewshot: int | None = Field(None, ge=0)
    """By default each task's own number; a task that says 0 stays at 0."""


def parse_tasks(names: str | None, include_path: Path | None, num_fewshot: int | None) -> Tasks | None:
    """From `NAME,NAME` and what else was given; None without names. Raises `UserError` without lm-eval."""
    given = {"include_path": include_path, "num_fewshot": num_fewshot}
    if names is None:
        for option, value in given.items():
            if value is not None:
                raise UserError(
                    f"--{option.replace('_', '-')} is for lm-eval's tasks: name some with --tasks"
                )
        return None
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if not listed:
        raise UserError("--tasks names no task: give some of lm-eval's, as arc_easy,gsm8k")
    wanted = build(Tasks, {**given, "tasks": listed})
    check_installed()
    if include_path is not None and not include_path.is_dir():
        raise UserError(f"--include-path {include_path} is no folder: name one with tasks for lm-eval")
    return wanted


def check_installed() -> str:
    """lm-eval's version; raises `UserError` where it is not installed, or too old."""
    try:
        found = version("lm_eval")
    except PackageNotFoundError:
        raise UserError(f"--tasks needs lm-evaluation-harness, which is not installed: {INSTALL}") from None
    if Version(found) < Version(OLDEST):
        raise UserError(f"--tasks needs lm-eval {OLDEST} or newer, and {found} is installed: {INSTALL}")
    return found


def find_tasks(wanted: Tasks, model: str) -> tuple[Any, list[str]]:
    """lm-eval's `TaskManager`, and the names that the wanted ones stand for.

    Raises `UserError` with close matches for a name that nothing has. `model` is told to tasks that make
    their data for a tokenizer, as lm-eval's command line tells it.
    """
    local = None
    if wanted.include_path is not None:
        local = _manager(wanted, model, include_defaults=False)
        if set(wanted.tasks) <= set(local.all_subtasks):  # the 14 000 others take a while to read
            return local, list(dict.fromkeys(wanted.tasks))
    manager = _manager(wanted, model)
    matches = {name: manager.match_tasks([name]) for name in wanted.tasks}
    for name, found in matches.items():
        if not found:
            raise UserError(_unknown(name, manager.all_tasks, wanted.include_path, local))
    return manager, list(dict.fromkeys(name for found in matches.values() for name in found))


def _manager(wanted: Tasks, model: str, include_defaults: bool = True) -> Any:
    with _explained("its tasks cannot be read"):
        from lm_eval.tasks import TaskManager

        folder = None if wanted.include_path is None else str(wanted.include_path)
        return TaskManager(
            include_path=folder, include_defaults=include_defaults, metadata={"pretrained": model}
        )


def _unknown(name: str, known: list[str], folder: Path | None, local: Any) -> str:
    close = get_close_matches(name[:100], known, n=3)
    mend = f"did you mean {' or '.join(close)}?" if close else "`lm-eval ls tasks` lists what it has."
    if folder is None:
        return f"lm-eval has no task {name!r:.100}: {mend} (--include-path DIR adds tasks of your own)"
    there = ", ".join(local.all_tasks[:10]) or "no task that can be read"
    return f"neither lm-eval nor {folder} has a task {name!r:.100}: {mend} (the folder holds {there})"


def run_tasks(
    model: Any,
    tokenizer: Any,
    manager: Any,
    names: list[str],
    *,
    num_fewshot: int | None = None,
    batch_size: int = 1,
    limit: int | None = None,
) -> tuple[dict[str, Any], str | None]:
    """lm-eval's whole result as JSON has it (NaN as null), and the BOS that it put first, if any.

    `limit` takes the first documents of each task. Raises `UserError` for whatever a task's definition or
    data, or the way to them, does not allow.
    """
    with _explained(f"it cannot run {', '.join(names)}"), redirect_stdout(sys.stderr):
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.utils import handle_non_serializable

        with _silent(logging.getLogger("lm_eval")):  # it warns of a model in memory as such
            lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        # By name, not loaded before: some tasks shuffle with the seeds that are set in here.
        raw = simple_evaluate(
            lm,
            tasks=names,
            num_fewshot=num_fewshot,
            batch_size=batch_size,
            device=str(model.device),
            limit=limit,
            task_manager=manager,
            log_samples=False,
        )
    assert raw is not None
    text = json.dumps(raw, default=handle_non_serializable)
    opened = lm.tok_encode("a")[:1] == [lm.tokenizer.bos_token_id]
    return json.loads(text, parse_constant=lambda _: None), lm.tokenizer.bos_token if opened else None


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turns whatever lm-eval and a task's own code raise into one line."""
    from depthprune.model.loading import one_line

    try:
        yield
    except UserError:
        raise
    except Exception as error:
        hint = ""
        if isinstance(error, ConnectionError):
            hint = "; without the hub, tasks over files of your own work: --include-path"
        raise UserError(f"lm-eval: {what}: {one_line(error)}{hint}") from error


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def figures(raw: dict[str, Any]) -> list[dict[str, Any]]:
    """Each metric of each task and group in lm-eval's result, in the form of a `Measurement`, and more.

    `filter` says what lm-eval made of an answer before it was judged ("none": nothing); `num_fewshot` and
    `version` are the task's.
    """
    found = []
    for task, values in raw["results"].items():
        counts = raw["n-samples"].get(task, {})
        for key, value in values.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr"):
                continue
            one = {
                "dataset": task,
                "metric": metric,
                "filter": kind,
                "value": _number(value),
                "n": counts.get("effective", values.get("sample_len")),
                "stderr": _number(values.get(f"{metric}_stderr,{kind}")),
                "version": raw["versions"].get(task),
                "num_fewshot": raw["n-shot"].get(task),
                "higher_is_better": (raw["higher_is_better"].get(task) or {}).get(metric),
            }
            if counts and counts["effective"] < counts["original"]:
                one["of"] = counts["original"]
            found.append(one)
    return found


def _number(value: Any) -> float | None:
    """lm-eval writes N/A for what it does not know."""
    return value if isinstance(value, int | float) else None
