"""Which of the Trainer's checkpoints a killed training goes on from: the newest that is whole."""

import json
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from depthprune.files import remove, sync_tree, write_json

MANIFEST = "depthprune-files.json"
"""Name → bytes of every file of a checkpoint; written last, once they are on the disk."""


class Manifests(TrainerCallback):
    """Says of each checkpoint which files it is made of. The Trainer writes them one after the other, every
    process its own, and deletes them one after the other."""

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            sync_tree(checkpoint)
            write_json(checkpoint / MANIFEST, _sizes(checkpoint))


def newest_checkpoint(folder: Path) -> Path | None:
    """The Trainer's newest checkpoint that is whole; the main process removes the others that are not."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = [path for path in found if _is_whole(path)]
    PartialState().wait_for_everyone()
    if PartialState().is_main_process:
        for torn in set(found) - set(whole):
            remove(torn)
    PartialState().wait_for_everyone()
    return whole[-1] if whole else None


def _is_whole(checkpoint: Path) -> bool:
    try:
        meant = json.loads((checkpoint / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    found = _sizes(checkpoint)
    return isinstance(meant, dict) and all(found.get(name) == size for name, size in meant.items())


def _sizes(checkpoint: Path) -> dict[str, int]:
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != MANIFEST)
    return {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
