"""What a run has left in its folder, without what no two runs share."""

import json
import re
from pathlib import Path
from typing import Any

from depthprune.model.published import publishing_fault

TIMES = re.compile(r"seconds|peak_bytes|date|num_tokens")
"""Of the token count TRL counts each process's own."""
NOT_COMPARED = ("report.html", "environment.json")
"""They hold times; that they are there is compared."""


def outcome(root: Path) -> dict[str, Any]:
    """Path → content. Weights and tokenizer byte for byte, JSON without times; dates in paths are equal."""
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        name = re.sub(r"superseded/\d[\dT-]+", "superseded/DATE", str(path.relative_to(root)))
        assert name not in found, f"{name} is there twice"
        found[name] = "folder" if path.is_dir() else _content(path)
    return found


def _content(path: Path) -> Any:
    if path.name in NOT_COMPARED:
        return "there"
    if path.parent.name == "depthprune" or path.parent.parent.name == "superseded":
        if path.suffix == ".json":
            return _timeless(json.loads(path.read_text()))
        if path.suffix == ".jsonl":
            return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    return path.read_bytes()


def _timeless(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _timeless(value) for key, value in content.items() if not TIMES.fullmatch(key)}
    return [_timeless(value) for value in content] if isinstance(content, list) else content


def difference(one: dict[str, Any], other: dict[str, Any]) -> str | None:
    """The first path that is not the same in both, or None."""
    for name in sorted(one.keys() | other.keys()):
        if name not in other:
            return f"{name} is left over"
        if name not in one:
            return f"{name} is missing"
        if one[name] != other[name]:
            return f"{name} differs: {str(one[name])[:300]} instead of {str(other[name])[:300]}"
    return None


def assert_honest(root: Path, models: list[dict[str, bytes]]) -> None:
    """The model in `root` is one of `models`, or there is none, or `verify` says what is wrong."""
    if not (root / "config.json").is_file():
        return
    files = {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}
    held = {name: content for name, content in files.items() if name[0] != "." and name != "README.md"}
    assert held in models or publishing_fault(root), f"{root} holds a model that is none of the run's"


def model_files(folder: Path) -> dict[str, bytes]:
    """The files of a checkpoint."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
