"""What a kill at every change of a folder leaves there, and real kills.

Python announces each file that it opens for writing, each rename, link, removal and new folder before it is
done (`sys.addaudithook`), so the folder as it is then is what a kill leaves. What is written without Python,
as safetensors and torch do, shows at the next announcement. For each file that was written between two of
them there is one state more: half of it.
"""

import hashlib
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHANGES = ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.symlink")
KILLED = 9


@dataclass(frozen=True)
class File:
    blob: str
    inode: int
    written: int
    """When, in nanoseconds."""


Tree = dict[str, File | None]
"""Path → the file there; None for a folder."""


@dataclass
class States:
    """The folder before each operation, without repetitions."""

    operations: int = 0
    trees: list[tuple[str, Tree]] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)

    def add(self, label: str, tree: Tree) -> None:
        this = shape(tree)
        if not any(shape(other) == this for _, other in self.trees[-8:]):
            self.trees.append((label, tree))


def shape(tree: Tree) -> list[Any]:
    """What a tree is without times and numbers of inodes: contents, and which names share a file."""
    first: dict[int, str] = {}
    return [
        (path, found and (found.blob, first.setdefault(found.inode, path)))
        for path, found in sorted(tree.items())
    ]


def record(root: Path, act: Callable[[], Any]) -> States:
    """Calls `act` and returns the states of `root` on the way."""
    states, before = States(), read_tree(root, {})

    def look(label: str) -> None:
        nonlocal before
        now = read_tree(root, states.blobs)
        for torn in _torn(before, now, states.blobs):
            states.add(f"half written, before {label}", torn)
        states.add(f"before {label}", now)
        before = now

    with announced(root, look) as count:
        act()
    look("the end")
    states.operations = count[0]
    return states


class announced:
    """Inside the block every change of `root` calls `look` with its name, before it is done."""

    active: "announced | None" = None

    def __init__(self, root: Path, look: Callable[[str], None]) -> None:
        self.root, self.look, self.count = str(root), look, [0]

    def __enter__(self) -> list[int]:
        if not hasattr(sys, "_depthprune_hook"):
            sys.addaudithook(_hook)
            sys._depthprune_hook = True  # type: ignore[attr-defined]  # a hook cannot be taken away again
        announced.active = self
        return self.count

    def __exit__(self, *error: object) -> None:
        announced.active = None


def _hook(event: str, args: tuple[Any, ...]) -> None:
    watcher = announced.active
    if watcher is None or not (event in CHANGES or (event == "open" and _writes(args))):
        return
    announced.active = None  # looking opens files too
    try:
        if any(path.startswith(watcher.root) for path in _paths(event, args)):
            watcher.count[0] += 1
            watcher.look(f"{event} {_paths(event, args)[-1].removeprefix(watcher.root)}")
    finally:
        announced.active = watcher


def _writes(args: tuple[Any, ...]) -> bool:
    return isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _paths(event: str, args: tuple[Any, ...]) -> list[str]:
    names = args[:2] if event in ("os.rename", "os.link", "os.symlink") else args[:1]
    found = [os.fsdecode(name) for name in names if isinstance(name, str | bytes | os.PathLike)]
    folder = args[-1]  # a descriptor, where a whole tree is removed
    if event in ("os.remove", "os.rmdir") and isinstance(folder, int) and folder >= 0:
        found = [f"{Path(f'/proc/self/fd/{folder}').readlink()}/{name}" for name in found]
    return [os.path.abspath(name) for name in found]  # noqa: PTH100 (resolve would follow links)


def read_tree(root: Path, blobs: dict[str, bytes]) -> Tree:
    """The folder as it is; contents go to `blobs`."""
    tree: Tree = {}
    for path in sorted(root.rglob("*")) if root.is_dir() else []:
        name = str(path.relative_to(root))
        if path.is_dir():
            tree[name] = None
        else:
            content, stat = path.read_bytes(), path.stat()
            tree[name] = File(_keep(content, blobs), stat.st_ino, stat.st_mtime_ns)
    return tree


def _keep(content: bytes, blobs: dict[str, bytes]) -> str:
    key = hashlib.sha256(content).hexdigest()
    blobs[key] = content
    return key


def _torn(before: Tree, now: Tree, blobs: dict[str, bytes]) -> Iterator[Tree]:
    """`before` with each of the files that were written since, the last of them by half."""
    known = {(found.inode, found.blob) for found in before.values() if found}
    new = {name: found for name, found in now.items() if found and (found.inode, found.blob) not in known}
    tree = {**before, **{name: None for name, found in now.items() if found is None}}
    for name, found in sorted(new.items(), key=lambda item: item[1].written):
        content = blobs[found.blob]
        if content:
            half = _keep(content[: len(content) // 2], blobs)
            yield {**tree, name: File(half, found.inode, found.written)}
        tree[name] = found


def lay_out(tree: Tree, blobs: dict[str, bytes], root: Path) -> None:
    """Makes the folder `root` what `tree` says, with its hard links and times."""
    linked: dict[int, Path] = {}
    root.mkdir(parents=True)
    for name, found in sorted(tree.items()):
        path = root / name
        if found is None:
            path.mkdir(exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if found.inode in linked:
            os.link(linked[found.inode], path)
            continue
        linked[found.inode] = path
        path.write_bytes(blobs[found.blob])
        os.utime(path, ns=(found.written, found.written))


def forked(act: Callable[[], Any], log: Path) -> Callable[[], Any]:
    """Calls `act` in a fork of this process; the function returned waits for its result, or raises."""
    answer = log.with_suffix(".pickle")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(output, 1), os.dup2(output, 2)
            answer.write_bytes(pickle.dumps(act()))
            code = 0
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def result() -> Any:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == KILLED:
            return None
        if code:
            raise AssertionError(f"ended with {code}:\n{log.read_text()[-3000:]}")
        return pickle.loads(answer.read_bytes())

    return result


def dying(root: Path, act: Callable[[], Any], moment: int) -> None:
    """Calls `act`, and ends the process at the change of `root` with this number, without any cleaning."""
    seen = 0

    def look(label: str) -> None:
        nonlocal seen
        seen += 1
        if seen == moment:
            os._exit(KILLED)

    with announced(root, look):
        act()
