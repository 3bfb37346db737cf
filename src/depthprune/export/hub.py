"""Puts a finished run on the hub: its model, its card, and the evidence, in one commit."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token, is_offline_mode
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from depthprune.errors import UserError
from depthprune.files import OWN
from depthprune.model.loading import one_line
from depthprune.model.published import publishing_fault, read_record, read_stamps
from depthprune.model.verify import verify
from depthprune.pipeline.lock import locked
from depthprune.report.artifacts import Artifacts, read_artifacts, shown
from depthprune.report.eval_results import FOLDER, eval_results
from depthprune.report.page import html_page

EVIDENCE = (
    "plan.json",
    "scores.json",
    "guard.json",
    "recovery.json",
    "training.json",
    "metrics.jsonl",
    "eval.json",
    "environment.json",
)
"""What goes along of depthprune's own folder as it is. No rows of data, and no path of this machine."""
SOURCES = ("model", "train", "calibration", "chat_template")
MARK = f"{OWN}/plan.json"
"""A repository that has it was written by this."""
EMPTY = {".gitattributes", "README.md"}
"""What a repository may hold that has just been made."""

FAULTS: Any = (HfHubHTTPError.__bases__[0], OSError, RuntimeError, ValueError)
"""What fails on the way: the first is that of the library that huggingface_hub goes by."""


def push(root: Path, repo: str, private: bool = False, trust_remote_code: bool = False) -> str:
    """Uploads the run folder `root` to the model repository `repo`, which is made where there is none.

    Returns the commit's address, once the hub lists in it every file that was meant.

    Raises:
        UserError: a folder that is no finished run or whose model does not pass `verify`, no token, a
            repository that holds something else, or whatever the hub says.
    """
    if fault := unfinished(root):
        raise UserError(f"{root}: {fault}")
    _check_hub(repo)
    with locked(root / OWN / "lock"):
        verify(root, trust_remote_code)
        files = files_to_push(root)
        with _explained(repo):
            return _upload(HfApi(), repo, files, private)


def unfinished(root: Path) -> str | None:
    """Why there is nothing to push; None for a run that has done all that its recipe asks."""
    again = "call the run again with the same settings"
    if (stamps := read_stamps(root)) is None:
        return "it is not a run of depthprune: name the folder that one wrote"
    run = read_artifacts(root)
    if run.recipe is None or run.plan is None or any(stamp.get("stale") for stamp in stamps.values()):
        return f"the run is not finished: {again}"
    wanted = ["prune"]
    if run.recipe["training"]["method"] != "none":
        wanted.append("train")
    if run.recipe["eval"] or run.recipe["train"]:
        wanted.append("evaluate")
    if missing := [stage for stage in wanted if stage not in stamps]:
        return f"the run is not finished, {missing[0]} is missing: {again}"
    if read_record(root)["stage"] is None or not (root / "README.md").is_file():
        return f"its model is only partly there: {again}"
    return publishing_fault(root)


def files_to_push(root: Path) -> dict[str, Path | bytes]:
    """Path in the repository → a file, or its content."""
    run = read_artifacts(root)
    told = replace(run, recipe=_without_paths(run))
    own = [name for name in EVIDENCE if (root / OWN / name).is_file()]
    return {
        **{name: root / name for name in sorted(read_record(root)["files"])},
        "README.md": root / "README.md",
        **{f"{FOLDER}/{name}": text.encode() for name, text in eval_results(root).items()},
        **{f"{OWN}/{name}": root / OWN / name for name in own},
        f"{OWN}/recipe.yaml": yaml.safe_dump(told.recipe, sort_keys=False).encode(),
        f"{OWN}/report.html": html_page(shown(told)).encode(),
    }


def _without_paths(run: Artifacts) -> dict[str, Any]:
    """The recipe, with the names alone of what lies on this machine."""
    assert run.recipe is not None
    named = {key: _name(run.recipe[key]) for key in SOURCES if run.recipe.get(key)}
    return {**run.recipe, **named, "eval": [_name(source) for source in run.recipe["eval"]]}


def _name(source: str) -> str:
    return Path(source).name if Path(source).is_absolute() else source


def _check_hub(repo: str) -> None:
    try:
        validate_repo_id(repo)
    except HFValidationError as problem:
        raise UserError(f"--repo {repo:.100}: {_first_sentence(problem)}") from None
    if is_offline_mode():
        raise UserError("HF_HUB_OFFLINE is set, and nothing can be pushed so: unset it")
    if get_token() is None:
        raise UserError("no token for the hub: log in with `hf auth login`, or set HF_TOKEN")


def _upload(hub: HfApi, repo: str, files: dict[str, Path | bytes], private: bool) -> str:
    made = hub.create_repo(repo, private=private or None, exist_ok=True).repo_id
    if private and not hub.model_info(made).private:
        raise UserError(f"{made} is there already, and public: name a new repository")
    there = set(hub.list_repo_files(made))
    if there - EMPTY and MARK not in there:
        raise UserError(f"{made} holds something that depthprune did not push: name a new repository")
    gone = [name for name in sorted(there - files.keys()) if name not in EMPTY]
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(name, source) for name, source in files.items()),
        *(CommitOperationDelete(name) for name in gone),
    ]
    commit = hub.create_commit(made, operations, commit_message="Push a model pruned by depthprune")
    listed = set(hub.list_repo_files(made, revision=commit.oid))
    if missing := files.keys() - listed:
        raise UserError(f"{made}: the hub does not list {min(missing)}: push again")
    return str(commit.commit_url)


@contextmanager
def _explained(repo: str) -> Iterator[None]:
    """Turns what the hub says, and the way to it, into one line."""
    try:
        yield
    except UserError:
        raise
    except HfHubHTTPError as problem:
        status = problem.response.status_code
        mend = {401: "log in with `hf auth login`", 403: "use a token that may write there"}.get(status, "")
        said = f"{repo}: the hub refuses ({status}): {_first_sentence(problem)}"
        raise UserError(f"{said}; {mend}" if mend else said) from problem
    except FAULTS as problem:
        raise UserError(f"{repo}: it is not pushed: {one_line(problem)}") from problem


def _first_sentence(problem: Exception) -> str:
    said = getattr(problem, "server_message", None) or str(problem)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return re.sub(r"\s*\(Request ID:.*?\)", "", lines[0])[:300] if lines else type(problem).__name__
