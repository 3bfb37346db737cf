"""Files that are written whole or not at all, and where depthprune keeps its own in a run folder."""

import json
from pathlib import Path
from typing import Any

OWN = "depthprune"
"""The folder inside a run folder that holds everything but the model itself."""


def write_text(path: Path, text: str) -> None:
    """Writes beside and renames, so that a reader or a crash never meets half a file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, content: Any) -> None:
    """As `write_text`, indented and with every letter as itself."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))
