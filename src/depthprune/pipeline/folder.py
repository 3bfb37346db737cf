"""The run folder: a Hugging Face model folder whose `depthprune/` holds every artifact of the run."""

import json
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from depthprune.errors import DiskFault, UserError
from depthprune.files import (
    OWN,
    delete,
    make_folders,
    read_json,
    read_object,
    remove,
    remove_empty,
    write_json,
    write_text,
)
from depthprune.model.published import CHECKPOINTS, RECORD, STAMPS, files_of, read_record, read_stamps
from depthprune.model.shards import read_shards
from depthprune.model.staging import STAGING
from depthprune.pipeline.lock import locked
from depthprune.pipeline.publish import publish

log = logging.getLogger("depthprune")

STAGES = ("score", "select", "prune", "answers", "train", "baseline", "evaluate")
ARTIFACTS = {
    "score": ("scores.json",),
    "select": ("plan.json",),
    "prune": (CHECKPOINTS["prune"], "recovery.json"),
    "answers": ("self-data.jsonl",),
    "train": (CHECKPOINTS["train"],),
    "baseline": ("baseline",),
    "evaluate": ("eval.json",),
}
"""What a stage leaves; a stage whose files are not whole is done again."""
TRAINING = "training.json"
WORTH_KEEPING = 60.0
"""Seconds of work after which a folder stays though the user's input turns out to be wrong."""


class RunFolder:
    """Artifacts of one run, written beside and renamed; each stage is stamped with a hash of its sources."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.own = self.root / OWN

    def check(self) -> None:
        """Raises `UserError` where `root` is something that depthprune did not write."""
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"{self.root} is a file: name a folder with --output")
        if self.root.is_dir() and not (self.own / STAMPS).is_file() and not self._is_bare():
            raise UserError(
                f"{self.root} exists and is not a run of depthprune: name a new folder with --output"
            )

    def _is_bare(self) -> bool:
        """Whether it holds nothing, or what a run leaves that was killed before it had begun."""
        if any(path != self.own for path in self.root.iterdir()):
            return False
        found = {path.name for path in self.own.iterdir()} if self.own.is_dir() else set()
        return found <= {"lock", f".{STAMPS}.partial"} and not self.own.is_file()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Makes the folder and keeps other runs out of it.

        Where the user's input turns out to be wrong in the block, a folder that was made here goes again,
        unless it holds a minute's work.
        """
        made = make_folders(self.own)
        with locked(self.own / "lock"):
            if not (self.own / STAMPS).exists():
                self.write(STAMPS, {})
            try:
                yield
            except UserError as error:
                if self.own in made and not self._worth_keeping(error):
                    delete(self.own)
                    for name in read_record(self.root)["files"]:
                        (self.root / name).unlink(missing_ok=True)
                    remove_empty(made)
                raise

    def _worth_keeping(self, error: UserError) -> bool:
        stamps = self.stamps()
        seconds = sum(stamp["seconds"] for stamp in stamps.values())
        return seconds > WORTH_KEEPING or bool(stamps and isinstance(error, DiskFault))

    def write(self, name: str, content: Any) -> None:
        """Writes `depthprune/<name>`: text as it is, anything else as JSON."""
        write = write_text if isinstance(content, str) else write_json
        write(self.own / name, content)

    def read(self, name: str) -> Any:
        """The JSON of `depthprune/<name>`."""
        return read_json(self.own / name)

    def read_if_whole(self, name: str, otherwise: Any) -> Any:
        """As `read`; `otherwise` where there is no such file, or a torn one, which is said."""
        if not (self.own / name).is_file():
            return otherwise
        try:
            found = self.read(name)
        except ValueError:
            found = None
        if found is None or (otherwise is not None and not isinstance(found, type(otherwise))):
            log.warning("%s is torn: what it held is lost", self.own / name)
            return otherwise
        return found

    def stamps(self) -> dict[str, Any]:
        """stage → its `digest`, `seconds` and `peak_bytes`; `stale` where another recipe's are wanted now."""
        return read_stamps(self.root) or {}

    def is_done(self, stage: str, digest: str | None) -> bool:
        """Whether the stage's files stand there whole and came from the same recipe and data."""
        stamp = self.stamps().get(stage)
        if stamp is None or stamp["digest"] != digest:
            return False
        for path in (self.own / name for name in ARTIFACTS[stage]):
            if torn := _torn(path, stamp.get("files", {})):
                log.warning("%s is missing or torn: the stage %s is done again", torn, stage)
                return False
        return True

    def finish(self, stage: str, digest: str, cost: Mapping[str, Any]) -> None:
        """Stamps a stage whose files are complete; a checkpoint becomes the model that the folder is."""
        artifact = self.artifact(stage)
        stamp: dict[str, Any] = {"digest": digest, **cost}
        if artifact.is_dir():
            stamp["files"] = sorted(files_of(artifact))
        if trained := (read_object(self.own / TRAINING) or {}).get(stage):
            stamp["trained"] = trained
        self.write(STAMPS, {**self.stamps(), stage: stamp})
        if stage in CHECKPOINTS and not self._newer(stage):
            publish(self.root, stage, digest)

    def _newer(self, stage: str) -> bool:
        """Whether a later stage's checkpoint stands, of the same recipe: this one was only done again."""
        stamps, names = self.stamps(), list(CHECKPOINTS)
        later = [name for name in names[: names.index(stage)] if name in stamps]
        return any(
            not stamps[name].get("stale") and self.is_done(name, stamps[name]["digest"]) for name in later
        )

    def begin(self, digests: Mapping[str, str], todo: Collection[str]) -> None:
        """Marks the stamps that another recipe left, and publishes what an earlier call did not come to."""
        stamps = {}
        for stage, stamp in self.stamps().items():
            stamps[stage] = {key: value for key, value in stamp.items() if key != "stale"}
            if digests.get(stage) != stamp["digest"]:
                stamps[stage]["stale"] = True
        if stamps != self.stamps():
            self.write(STAMPS, stamps)
        self._restore(stamps)
        if (self.own / RECORD).is_file() and read_object(self.own / RECORD) is None:
            log.warning("%s is torn: the model is put in place again", self.own / RECORD)
        for stage in CHECKPOINTS:
            if stage in stamps and stage not in todo and self.is_done(stage, digests.get(stage)):
                publish(self.root, stage, stamps[stage]["digest"])
                break

    def _restore(self, stamps: Mapping[str, Any]) -> None:
        """Puts back what training.json lost: every stage's entry stands in its stamp too."""
        found = read_object(self.own / TRAINING)
        wanted = {stage: stamp["trained"] for stage, stamp in stamps.items() if "trained" in stamp}
        if found is None and (self.own / TRAINING).is_file():
            log.warning("%s is torn: written again", self.own / TRAINING)
        if wanted and (found is None or any(found.get(stage) != wanted[stage] for stage in wanted)):
            self.write(TRAINING, {**(found or {}), **wanted})

    def sweep(self) -> None:
        """Removes what a killed call left that nothing goes on from."""
        for pattern in (".*", "trainer/.*", "scoring"):
            for path in self.own.glob(pattern):
                delete(path)
        remove_empty([self.own / "trainer"])
        names = read_record(self.root)["files"]
        for path in [self.root / STAGING, *self.root.glob(".*.partial")]:
            if path.name.removeprefix(".").removesuffix(".partial") in {*names, "README.md", "config.json"}:
                delete(path)
        stamps = self.stamps()
        for stage in (*CHECKPOINTS, "baseline"):
            if stage not in stamps:
                remove(self.artifact(stage))

    def artifact(self, stage: str) -> Path:
        """Where a stage leaves its result."""
        return self.own / ARTIFACTS[stage][0]

    def clean(self, patterns: Collection[str]) -> None:
        """Removes what finished stages worked with, named within `depthprune/`."""
        for pattern in patterns:
            for path in self.own.glob(pattern):
                remove(path)
                if path.parent != self.own:
                    remove_empty([path.parent])

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
        remove(folder)
        folder.mkdir(parents=True)
        return folder


def _torn(path: Path, names: Collection[str]) -> Path | None:
    """What is not whole of a JSON object, JSON lines, or a checkpoint with files of these names."""
    if path.suffix == ".json":
        return None if read_object(path) else path
    if path.suffix == ".jsonl":
        return None if _parses(path) else path
    missing = [path / name for name in names or ["config.json"] if not (path / name).is_file()]
    if missing:
        return missing[0]
    try:
        read_shards(path)
    except UserError:
        return path
    return next((file for file in path.glob("*.json") if not _parses(file)), None)


def _parses(path: Path) -> bool:
    if not path.is_file():  # a pipe would be waited for
        return False
    try:
        text = path.read_text(encoding="utf-8")
        for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
            json.loads(part)
    except (OSError, ValueError, RecursionError):
        return False
    return True
