"""Removes layers from a tiny model of every type that transformers makes text with: `make test-families`.

Prints a line a type and the figure, keeps the results in `results.json` beside it as it goes, and writes
docs/families.md from them. Types named as arguments are walked alone; the others keep their results.
"""

import argparse
import json
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import torch
import transformers
from check import PASSES, Fault, Unfit, check_removals
from page import figure, write_page
from small import CAUSAL, MULTIMODAL, NotBuildable, default_config

from depthprune.errors import UserError
from depthprune.model.loading import load_config

RESULTS = Path(__file__).parent / "results.json"
SECONDS = 600
"""The most that one type may take."""


def walk(kinds: list[str], results: Path, again: bool) -> dict[str, Any]:
    """The results of all types so far; those of earlier runs stay, unless `again`."""
    found = json.loads(results.read_text()) if results.is_file() else {}
    if found.get("transformers") != transformers.__version__:
        found = {"transformers": transformers.__version__, "types": {}}
    for kind in kinds:
        if kind in found["types"] and not again:
            continue
        start = time.perf_counter()
        found["types"][kind] = result = walk_type(kind)
        print(
            f"{kind}: {result['status']} {result.get('reason', '')} ({time.perf_counter() - start:.0f} s)",
            flush=True,
        )
        order = {name: found["types"][name] for name in [*CAUSAL, *MULTIMODAL] if name in found["types"]}
        found["types"] = order
        results.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found


def walk_type(kind: str) -> dict[str, Any]:
    """The status of a type, with its removals or the reason."""
    signal.alarm(SECONDS)
    try:
        if refusal := refused_as_a_whole(kind):
            return {"status": "not decoder-only", "reason": refusal}
        removals = check_removals(kind)
        passed = [said.startswith(PASSES) for said in removals.values()]
        return {
            "status": "passes" if all(passed) else "partly" if any(passed) else "refused",
            "removals": removals,
        }
    except UserError as refusal:
        return {"status": "refused", "reason": str(refusal)}
    except NotBuildable as reason:
        return {"status": "not buildable", "reason": str(reason)}
    except Unfit as reason:
        return {"status": "not checkable", "reason": str(reason)}
    except Fault as reason:
        return {"status": "FAULT", "reason": str(reason)}
    except Exception as error:
        frames = [
            f"{Path(frame.filename).name}:{frame.lineno}"
            for frame in traceback.extract_tb(error.__traceback__)
        ]
        return {
            "status": "FAULT",
            "reason": f"{type(error).__name__} {' '.join(str(error).split())[:300]} {frames[-4:]}",
        }
    finally:
        signal.alarm(0)


def refused_as_a_whole(kind: str) -> str | None:
    """Why no model of this type is taken at all."""
    with tempfile.TemporaryDirectory() as folder:
        default_config(kind).save_pretrained(folder)
        try:
            load_config(folder)
        except UserError as refusal:
            return str(refusal).replace(folder, "MODEL")
    return None


def too_slow(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--resume", action="store_true", help="keep the results that are there")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    signal.signal(signal.SIGALRM, too_slow)
    every = list(dict.fromkeys([*CAUSAL, *MULTIMODAL]))
    found = walk(chosen.types or every, chosen.results, again=not chosen.resume)
    if chosen.results == RESULTS:
        write_page(found)
    print(figure(found))
    return any(result["status"] == "FAULT" for result in found["types"].values())


if __name__ == "__main__":
    sys.exit(main())
