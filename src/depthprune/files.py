"""Files that are written whole or not at all, and where depthprune keeps its own in a run folder."""

import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

OWN = "depthprune"
"""The folder inside a run folder that holds everything but the model itself."""

_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)  # of a folder, on some network file systems


def write_text(path: Path, text: str) -> None:
    """Writes beside and renames, so that a reader, a crash or a power cut never meets half a file."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)  # whatever it is: opening a pipe would wait for ever
    # A file's name may hold bytes that are no UTF-8; JSON and YAML read the escape as what it was.
    with partial.open("x", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)
    put_in_place(partial, path)


def write_json(path: Path, content: Any) -> None:
    """As `write_text`, indented and with every letter as itself."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file; a ValueError where it is not whole."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None


def read_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no such file, or it does not hold a whole one."""
    try:
        found = read_json(path) if path.is_file() else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def read_json_lines(path: Path) -> list[Any]:
    """The lines of a file of JSON up to the first that is torn; none where there is no file."""
    lines = (
        path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True) if path.is_file() else []
    )
    found = []
    for line in lines:
        if not line.endswith("\n"):
            break
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return found


def put_in_place(partial: Path, path: Path) -> None:
    """Renames a file that is written to its end; content first, then the name, is on the disk."""
    sync(partial)
    partial.replace(path)
    sync(path.parent)


def put_copy(source: Path, target: Path, linked: bool = False) -> None:
    """A copy in the place of `target`; `linked`, a hard link to the same content where the disk has them."""
    partial = target.with_name(f".{target.name}.partial")
    delete(partial)
    if linked:
        link_or_copy(source, partial)
    else:
        shutil.copy2(source, partial)
    put_in_place(partial, target)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """The same content under another name, which takes no second place on a disk that has hard links."""
    try:
        os.link(source, target)
    except OSError:  # a file system without them
        shutil.copy2(source, target)


def sync(path: Path) -> None:
    """Returns once a file's content, or a folder's names, are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC or not path.is_dir():
            raise
    finally:
        os.close(opened)


def sync_tree(folder: Path) -> None:
    """`sync` for everything in a folder, and the folder."""
    for path in folder.rglob("*"):
        if path.is_dir() or path.is_file():
            sync(path)
    sync(folder)


def remove(path: Path) -> None:
    """Takes a file or folder away at once, then deletes it.

    A kill leaves all of it, or remains named `.<name>.gone`, which no one takes for something whole.
    """
    gone = path.with_name(f".{path.name}.gone")
    delete(gone)
    with suppress(FileNotFoundError):
        path.rename(gone)
        delete(gone)


def delete(path: Path) -> None:
    """Deletes a file, a link or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def make_folders(folder: Path) -> list[Path]:
    """Makes a folder and those that it lies in; returns the ones that were not there, topmost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    made: list[Path] = []
    try:
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            made.append(path)
    except OSError:
        remove_empty(made)
        raise
    return made


def remove_empty(folders: list[Path]) -> None:
    """Takes back what `make_folders` made, as far as nothing lies in it."""
    for folder in reversed(folders):
        with suppress(OSError):
            folder.rmdir()
