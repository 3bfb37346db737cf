"""The run folder: a Hugging Face model folder whose `depthprune/` holds every artifact of the run."""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from depthprune.errors import UserError
from depthprune.files import OWN, read_json, write_json, write_text

STAGES = ("score", "select", "prune", "answers", "train", "baseline", "evaluate")
_ARTIFACTS = {
    "score": "scores.json",
    "select": "plan.json",
    "prune": "pruned",
    "answers": "self-data.jsonl",
    "train": "tuned",
    "baseline": "baseline",
    "evaluate": "eval.json",
}


class RunFolder:
    """Artifacts of one run, written beside and renamed; each stage is stamped with a hash of its sources."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.own = self.root / OWN

    def check(self) -> None:
        """Raises `UserError` where `root` is something that depthprune did not write."""
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"{self.root} is a file: name a folder with --output")
        if self.root.is_dir() and any(self.root.iterdir()) and not (self.own / "stages.json").is_file():
            raise UserError(
                f"{self.root} exists and is not a run of depthprune: name a new folder with --output"
            )

    def create(self) -> Path | None:
        """Makes the folder; returns the topmost folder that was not there before, or None."""
        missing = [path for path in (self.own, *self.own.parents) if not path.exists()]
        self.own.mkdir(parents=True, exist_ok=True)
        if not (self.own / "stages.json").exists():
            self.write("stages.json", {})
        return missing[-1] if missing else None

    def write(self, name: str, content: Any) -> None:
        """Writes `depthprune/<name>`: text as it is, anything else as JSON."""
        write = write_text if isinstance(content, str) else write_json
        write(self.own / name, content)

    def read(self, name: str) -> Any:
        """The JSON of `depthprune/<name>`."""
        return read_json(self.own / name)

    def is_done(self, stage: str, digest: str | None) -> bool:
        """Whether the stage's artifact stands there and came from the same recipe and data."""
        stamp = self.read("stages.json").get(stage)
        return stamp is not None and stamp["digest"] == digest and self.artifact(stage).exists()

    def finish(self, stage: str, digest: str, cost: dict[str, Any]) -> None:
        """Stamps a stage whose artifact is complete; a checkpoint becomes the model that the folder is."""
        self.write("stages.json", {**self.read("stages.json"), stage: {"digest": digest, **cost}})
        if stage in ("prune", "train"):
            self._publish()

    def forget(self, stages: Iterable[str]) -> None:
        """Removes the artifacts and stamps of stages that another recipe or other data left here."""
        stamps = self.read("stages.json")
        stale = [stage for stage in stages if stage in stamps]
        if not stale:
            return
        self.write("stages.json", {stage: stamp for stage, stamp in stamps.items() if stage not in stale})
        for stage in stale:
            artifact = self.artifact(stage)
            if artifact.is_dir():
                shutil.rmtree(artifact)
            else:
                artifact.unlink(missing_ok=True)
        for stage, beside in (("prune", "recovery.json"), ("train", "training.json")):
            if stage in stale:
                (self.own / beside).unlink(missing_ok=True)
        self._publish()

    def artifact(self, stage: str) -> Path:
        """Where a stage leaves its result."""
        return self.own / _ARTIFACTS[stage]

    @property
    def gradients(self) -> Path:
        """The factor pairs of the scoring run."""
        return self.own / "gradients"

    @property
    def teacher(self) -> Path:
        """The dense model's predictions, while a distillation needs them."""
        return self.own / "teacher"

    def fresh(self, folder: Path) -> Path:
        """`folder`, empty."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def _publish(self) -> None:
        """Makes the newest checkpoint the model that the run folder is, or leaves none where there is none.

        By hard links, so it takes no second place on the disk.
        """
        stamps = self.read("stages.json")
        newest = [self.artifact(stage) for stage in ("train", "prune") if stage in stamps][:1]
        files = {
            str(path.relative_to(checkpoint)): path
            for checkpoint in newest
            for path in checkpoint.rglob("*")
            if path.is_file()
        }
        for name, path in files.items():
            target = self.root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(f".{path.name}.partial")
            beside.unlink(missing_ok=True)
            _link_or_copy(path, beside)
            beside.replace(target)
        names = list(files)
        record = self.own / "published.json"
        before = self.read(record.name) if record.exists() else []
        card = [] if names else ["README.md"]
        for stale in {*before, *card} - set(names):
            (self.root / stale).unlink(missing_ok=True)
        self.write(record.name, names)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def fingerprint(source: str) -> str:
    """A hash of a dataset's contents, of a model's sizes and times; a hub id stands for itself."""
    path = Path(source)
    if not path.exists():
        return source
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if not file.is_file():
            continue
        digest.update(str(file.relative_to(path)).encode())
        if file.suffix == ".safetensors":
            stat = file.stat()
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
        else:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
