"""A model folder that is written whole: beside what is there first, then moved, its config last."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from depthprune.errors import UserError
from depthprune.files import delete, make_folders, remove_empty, sync, sync_tree

STAGING = ".depthprune-partial"
CONFIG = "config.json"
"""Without it a folder is no model to anyone: it goes first and comes last."""


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` to write a model's files into; they are moved there when the block ends.

    Where the block raises, nothing is left. A kill leaves the folder as it was, without a model, or with the
    whole new one; what else it leaves is swept by the next call.
    """
    made = make_folders(folder)
    staging = folder / STAGING
    delete(staging)
    written = staging / "model"
    try:
        written.mkdir(parents=True)
        yield written
        sync_tree(written)
    except BaseException:
        delete(staging)
        remove_empty(made)
        raise
    _move(written, folder)
    staging.rmdir()
    sync(folder)


def check_vacant(folder: Path) -> None:
    """Raises `UserError` where something lies in `folder` but what a killed `staged` has left."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a new folder")
    if folder.exists() and any(folder.iterdir()) and not (folder / STAGING).is_dir():
        raise UserError(f"{folder} is not empty: name a new folder")


def _move(written: Path, folder: Path) -> None:
    """Puts the written files into the folder; weights that an earlier save left there go."""
    (folder / CONFIG).unlink(missing_ok=True)
    for stale in folder.glob("model*.safetensors*"):
        stale.unlink()
    for file in sorted(written.iterdir(), key=lambda path: path.name == CONFIG):
        target = folder / file.name
        if file.name == CONFIG:
            sync(folder)  # the rest is there before it makes a model of it
        elif target.is_dir():
            shutil.rmtree(target)
        file.replace(target)
    written.rmdir()
