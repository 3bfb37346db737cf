"""Reading rows from a folder: which of its files are data, of which split, and what is passed over."""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from depthprune.data.files import Record, format_of, rank, read_file, read_text, wanted_formats
from depthprune.data.splits import FOR_TRAINING, choose_split, split_of
from depthprune.data.streams import uncompressed_name
from depthprune.data.tables import is_saved, read_saved
from depthprune.errors import UserError

logger = logging.getLogger("depthprune")

_ABOUT = re.compile(
    r"(readme|licen[cs]e|notice|changelog|citation|requirements|dataset_infos?|dataset_dict|state)(\.\w+)?|_success",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Part:
    """A data file, or a folder that `datasets` saved."""

    path: Path
    split: str | None

    def read(self, splits: tuple[str, ...]) -> Iterator[Record]:
        return (read_saved if self.path.is_dir() else read_file)(self.path, splits)


def read_folder(
    folder: Path, splits: tuple[str, ...] = FOR_TRAINING, asked: bool = False
) -> Iterator[Record]:
    """The rows of the data files in `folder` and the folders in it, in the order of their names.

    Where names of files or folders speak of splits (`data/train-00000-of-00002.parquet`, `test/a.jsonl`),
    only those of the first of `splits` that is there are read, so that a test set never leaks into the
    training set. What is passed over is said. Raises `UserError` where nothing is left, where the user
    `asked` for the split and no name speaks of one, and where README.md tells of several datasets.
    """
    _refuse_several(folder)
    parts, others = _found(folder)
    if not parts:
        raise UserError(f"{folder}: no data file in this folder; wanted {wanted_formats()}")
    chosen = _of_split(folder, parts, splits, asked)
    chosen, doubled = _without_doubles(chosen)
    _say_passed_over(folder, "of no kind that is read", others)
    _say_passed_over(folder, "the same name in another format", doubled)
    return (record for part in chosen for record in _nonempty(part, splits))


def _nonempty(part: _Part, splits: tuple[str, ...]) -> Iterator[Record]:
    count = 0
    for record in part.read(splits):
        count += 1
        yield record
    if count == 0:
        logger.warning("%s: no rows in it", part.path)


def _found(folder: Path) -> tuple[list[_Part], list[Path]]:
    """The data files under `folder`, in order, and the others; hidden and descriptive ones are neither."""
    parts: list[_Part] = []
    others: list[Path] = []

    def descend(inner: Path, above: tuple[str, ...]) -> None:
        for path in sorted(inner.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir() and is_saved(path):
                parts.append(_Part(path, split_of(path.name, above)))
            elif path.is_dir() and not path.is_symlink():
                descend(path, (*above, path.name))
            elif path.is_file() and not _ABOUT.fullmatch(path.name):
                if format_of(path) is None:
                    others.append(path)
                else:
                    parts.append(_Part(path, split_of(_stem(path), above)))

    try:
        descend(folder, ())
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return parts, others


def _stem(path: Path) -> str:
    return uncompressed_name(path).stem


def _of_split(folder: Path, parts: list[_Part], splits: tuple[str, ...], asked: bool) -> list[_Part]:
    there = sorted({part.split for part in parts if part.split})
    if not there and not asked:
        return parts
    if not there:
        raise UserError(
            f"{folder}: no file of the split {splits[0]!r} (there: no split names); name the file itself"
        )
    wanted = choose_split(str(folder), there, splits)
    _say_passed_over(folder, "no split in their names", [part.path for part in parts if part.split is None])
    return [part for part in parts if part.split == wanted]


def _without_doubles(parts: list[_Part]) -> tuple[list[_Part], list[Path]]:
    """`a.jsonl` and `a.jsonl.gz` or `a.csv` are one dataset twice: the first format of our list is read."""
    groups: dict[Path, list[_Part]] = {}
    for part in parts:
        name = part.path if part.path.is_dir() else uncompressed_name(part.path).with_suffix("")
        groups.setdefault(name, []).append(part)
    chosen = [min(group, key=lambda part: rank(part.path)) for group in groups.values()]
    return chosen, [part.path for part in parts if part not in chosen]


def _say_passed_over(folder: Path, why: str, paths: list[Path]) -> None:
    if paths:
        shown = ", ".join(str(path.relative_to(folder)) for path in paths[:5])
        more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
        logger.warning("%s: passed over, %s: %s%s", folder, why, shown, more)


def _refuse_several(folder: Path) -> None:
    """A folder from the hub may hold several datasets, which its README.md lists; reading all mixes them."""
    readme = folder / "README.md"
    if not readme.is_file():
        return
    text = read_text(readme).replace("\r\n", "\n")
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    names = re.findall(r"^\s*-?\s*config_name:\s*(\S+)", front[1], re.MULTILINE) if front else []
    if len(different := sorted(set(names))) > 1:
        raise UserError(
            f"{folder}: holds {len(different)} datasets, as its README.md says ({', '.join(different[:5])}); "
            "name the folder or the files of one"
        )
