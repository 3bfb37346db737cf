"""What a changed recipe replaces is moved aside, and stays until the user says otherwise."""

import logging
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from depthprune.files import remove, sync, write_json
from depthprune.model.published import STAMPS, read_stamps
from depthprune.pipeline.folder import ARTIFACTS, STAGES, RunFolder

log = logging.getLogger("depthprune")

SUPERSEDED = "superseded"
_BESIDE = {"score": ("gradients",), "evaluate": ("per-row.json",)}
_BARELY_BEGUN = {"recipe.yaml", f".{STAMPS}.partial"}
_SHARED = {"train": ("training.json", "metrics.jsonl"), "baseline": ("training.json", "metrics.jsonl")}
"""Files that hold the entries of several stages, which replace their own."""


def supersede(folder: RunFolder, digests: dict[str, str], todo: Sequence[str], overwrite: bool) -> None:
    """Moves aside what the stages in `todo` left for another recipe, before they write there again.

    `overwrite` deletes it, and what was moved aside before. Stages not in `todo` keep what they have.
    """
    if overwrite:
        remove(folder.own / SUPERSEDED)
    stamps = folder.stamps()
    old = {stage: stamps[stage] for stage in todo if stage in stamps}
    old = {stage: stamp for stage, stamp in old.items() if stamp["digest"] != digests[stage]}
    if not old:
        return
    paths = {stage: _files(folder, stage) for stage in old}
    kept = None if overwrite else _aside(folder, old, [path for found in paths.values() for path in found])
    for stage, found in paths.items():
        for path in found:
            if kept is None:
                log.info("%-8s %s of another recipe is deleted", stage, path.name)
                remove(path)
            else:
                log.info("%-8s %s of another recipe is kept as %s", stage, path.name, kept / path.name)
                _move(path, kept)
        for name in _SHARED.get(stage, ()):
            if kept is not None and (folder.own / name).is_file():
                shutil.copy2(folder.own / name, kept / name)
    folder.write(STAMPS, {stage: stamp for stage, stamp in stamps.items() if stage not in old})


def set_aside_without_stamps(folder: RunFolder) -> None:
    """Moves every artifact aside where stages.json is torn: nothing says any more what they came from."""
    if not (folder.own / STAMPS).is_file() or read_stamps(folder.root) is not None:
        return
    log.warning("%s is torn: what it held is lost", folder.own / STAMPS)
    found = list(dict.fromkeys(path for stage in STAGES for path in _files(folder, stage)))
    if found:
        kept = _aside(folder, {}, found)
        log.warning("what stands in %s is kept in %s", folder.own, kept)
        for path in found:
            _move(path, kept)
    folder.write(STAMPS, {})


def _files(folder: RunFolder, stage: str) -> list[Path]:
    names = (*ARTIFACTS[stage], *_BESIDE.get(stage, ()))
    return [folder.own / name for name in names if (folder.own / name).exists()]


def _aside(folder: RunFolder, stamps: dict[str, Any], paths: Sequence[Path]) -> Path:
    """A new folder for `paths`, or the one that a killed call began to fill with them."""
    above = folder.own / SUPERSEDED
    for begun in sorted(above.glob("*")):
        if {path.name for path in begun.glob("*")} <= _BARELY_BEGUN:  # a kill's: nothing was moved there yet
            remove(begun)
            continue
        same = (begun / STAMPS).is_file() and folder.read_if_whole(
            f"{SUPERSEDED}/{begun.name}/{STAMPS}", None
        )
        if same == stamps and not any((begun / path.name).exists() for path in paths):
            return begun
    date = datetime.now().strftime("%Y-%m-%dT%H-%M-%S")
    kept = above / date
    for number in range(2, 1000):
        if not kept.exists():
            break
        kept = above / f"{date}-{number}"
    kept.mkdir(parents=True)
    recipe = folder.own / "recipe.yaml"
    if recipe.is_file() and not any(stamp.get("stale") for stamp in stamps.values()):
        shutil.copy2(recipe, kept / recipe.name)
    write_json(kept / STAMPS, stamps)
    return kept


def _move(path: Path, folder: Path) -> None:
    path.rename(folder / path.name)
    sync(folder)
    sync(path.parent)
