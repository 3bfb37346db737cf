"""Makes a stage's checkpoint the model that the run folder is."""

import logging
from contextlib import suppress
from pathlib import Path

from depthprune.files import OWN, put_copy, sync, write_json
from depthprune.model.published import CHECKPOINTS, RECORD, files_of, read_record, same_file
from depthprune.model.staging import CONFIG

log = logging.getLogger("depthprune")


def publish(root: Path, stage: str, digest: str) -> None:
    """Puts the stage's checkpoint at the top of the folder, unless it is there already.

    Weights are hard links and take no second place on the disk. The config goes first and comes last, so that
    a kill leaves the model of before, none, or the new one.
    """
    source, before = root / OWN / CHECKPOINTS[stage], read_record(root)
    files = files_of(source)
    wanted = {"stage": stage, "digest": digest, "files": files}
    if before == wanted and all(same_file(root / name, source / name) for name in files):
        return
    if before["stage"] == stage and before["digest"] == digest:
        log.warning("the model in %s is not that of its stage %s any more: put back", root, stage)
    touched = {**before["files"], **files}
    write_json(root / OWN / RECORD, {"stage": None, "digest": None, "files": touched})
    for name in (CONFIG, "README.md", *sorted(touched.keys() - files.keys())):
        _take_away(root, name)
    sync(root)
    for name in sorted(files.keys() - {CONFIG}):
        _place(source / name, root / name)
    if CONFIG in files:
        _place(source / CONFIG, root / CONFIG)
    write_json(root / OWN / RECORD, wanted)


def _place(source: Path, target: Path) -> None:
    if not target.is_symlink() and same_file(target, source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    put_copy(source, target, linked=source.suffix == ".safetensors")  # others are small, and people edit them


def _take_away(root: Path, name: str) -> None:
    (root / name).unlink(missing_ok=True)
    for folder in list((root / name).relative_to(root).parents)[:-1]:
        with suppress(OSError):
            (root / folder).rmdir()
