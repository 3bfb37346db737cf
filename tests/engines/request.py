"""What the scripts of this folder share: the standard library alone, as each runs in an engine's venv.

A script is called with two files: a request in JSON (`folders`, `prompts` as token ids, `texts` of the same
prompts, `new_tokens`), and where to write its answer: `version`, and per folder `tokens` (greedy, one list a
prompt) or `texts`, and `logits` (of the last position of each prompt) where the engine gives them; or
`refused`, the error with which it does not load the folder.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def answer(version: str, run: Callable[[str, dict[str, Any]], dict[str, Any]]) -> None:
    """Runs every folder of the request and writes the answer."""
    request = json.loads(Path(sys.argv[1]).read_text())
    results = {}
    for folder in request["folders"]:
        try:
            results[folder] = run(folder, request)
        except Exception as error:  # an engine refuses in its own way, which is an answer too
            results[folder] = {"refused": f"{type(error).__name__}: {error}"[:500]}
    Path(sys.argv[2]).write_text(json.dumps({"version": version, "results": results}))
