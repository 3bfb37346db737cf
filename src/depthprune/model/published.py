"""Which checkpoint of a run the model at the top of its folder is, and whether it still is that."""

import filecmp
from pathlib import Path, PurePosixPath
from typing import Any

from depthprune.files import OWN, read_object
from depthprune.model.staging import CONFIG

RECORD = "published.json"
STAMPS = "stages.json"
CHECKPOINTS = {"train": "tuned", "prune": "pruned"}
"""Of the stages whose checkpoint can be a run folder's model, the newest first; each with its own folder."""


def read_record(root: Path) -> dict[str, Any]:
    """`stage`, `digest`, and `files`, each name with its bytes; no stage while they are being changed.

    Names that lead out of the folder, or into depthprune's own, are not taken: the file may be anyone's.
    """
    found = read_object(root / OWN / RECORD) or {}
    files = found.get("files")
    files = files if isinstance(files, dict) else {}
    return {
        "stage": found.get("stage") if found.get("stage") in CHECKPOINTS else None,
        "digest": found.get("digest"),
        "files": {name: size for name, size in files.items() if _stays_inside(root, name)},
    }


def read_stamps(root: Path) -> dict[str, dict[str, Any]] | None:
    """stage → its `digest`, `seconds` and more; None where stages.json is not there, or not whole."""
    found = read_object(root / OWN / STAMPS)
    if found is None:
        return None
    stamps = found.values()
    whole = all(isinstance(stamp, dict) and {"digest", "seconds"} <= stamp.keys() for stamp in stamps)
    return found if whole else None


def files_of(folder: Path) -> dict[str, int]:
    """The files of a model folder, at any depth, with their bytes."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in found}


def same_file(one: Path, other: Path, thorough: bool = False) -> bool:
    """Whether both hold the same bytes; copies that keep size and time pass unless `thorough`."""
    if not (one.is_file() and other.is_file()):
        return False
    if one.samefile(other):
        return True
    left, right = one.stat(), other.stat()
    if left.st_size != right.st_size:
        return False
    kept = left.st_mtime_ns == right.st_mtime_ns and not thorough
    return kept or filecmp.cmp(one, other, shallow=False)


def publishing_fault(root: Path) -> str | None:
    """Why the model in a run folder is not the checkpoint that the run says; None where it is."""
    own, record = root / OWN, read_record(root)
    again = "call the run again with the same settings"
    if (stamps := read_stamps(root)) is None:
        return None  # no run folder, or one that says nothing
    finished = [stage for stage in CHECKPOINTS if stage in stamps and not stamps[stage].get("stale")]
    if record["stage"] is None:
        return f"its model is only partly there: {again}" if finished or record["files"] else None
    if finished and [record["stage"], record["digest"]] != [finished[0], stamps[finished[0]]["digest"]]:
        return f"it holds another model than that of its stage {finished[0]}: {again}"
    source = own / CHECKPOINTS[record["stage"]]
    there = stamps.get(record["stage"], {}).get("digest") == record["digest"] and (source / CONFIG).is_file()
    for name, size in record["files"].items():
        path = root / name
        if not path.is_file():
            return f"{name} of its stage {record['stage']} is missing: {again}"
        if path.stat().st_size != size or (there and not same_file(path, source / name, thorough=True)):
            return f"{name} is not that of its stage {record['stage']}: {again}"
    return None


def planned_depth(root: Path) -> int | None:
    """How many layers a run folder's plan keeps; None where there is none, or the model is of another."""
    stamps = read_stamps(root) or {}
    if stamps.get(str(read_record(root)["stage"]), {}).get("stale"):
        return None
    kept = (read_object(root / OWN / "plan.json") or {}).get("kept")
    return len(kept) if isinstance(kept, list) else None


def _stays_inside(root: Path, name: Any) -> bool:
    path = PurePosixPath(str(name))
    plain = bool(path.parts) and not path.is_absolute() and ".." not in path.parts and path.parts[0] != OWN
    return plain and (root / path).parent.resolve().is_relative_to(root.resolve())
