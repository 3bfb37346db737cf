"""The plan of the house, read from the package's own imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "depthprune"
STAGES = {"score", "select", "prune", "train", "evaluate"}
METHODS = {"model", "importance", "selection", "recovery"}
ABOVE = {"pipeline", "recipe", "cli", "report", "compare", "bench"}


def modules() -> dict[str, Path]:
    names = {}
    for path in PACKAGE.rglob("*.py"):
        parts = ("depthprune", *path.relative_to(PACKAGE).with_suffix("").parts)
        names[".".join(part for part in parts if part != "__init__")] = path
    return names


def imports() -> dict[str, set[str]]:
    """module → the modules of the package that it imports anywhere, inside functions and for types too."""
    known = modules()
    return {name: {other for other in imported(path, known) if other != name} for name, path in known.items()}


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            found = name if name in known else name.rpartition(".")[0]
            if found in known:
                yield found


def circle(graph: dict[str, set[str]]) -> list[str]:
    """What is left of a graph when leaf after leaf is taken off: a circle and what leads to it."""
    left = {node: set(others) for node, others in graph.items()}
    while leaves := [node for node, others in left.items() if not others & left.keys()]:
        for node in leaves:
            del left[node]
    return sorted(left)


def room(module: str) -> str:
    """The folder of a module, or itself where it stands at the root of the package."""
    return module.split(".")[1] if "." in module else module


def test_no_circle_of_modules():
    assert circle(imports()) == []


def test_no_circle_of_rooms():
    rooms: dict[str, set[str]] = {}
    for module, others in imports().items():
        rooms.setdefault(room(module), set()).update(room(other) for other in others)
    assert circle({name: others - {name} for name, others in rooms.items()}) == []


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]


def test_no_stage_imports_another():
    stages = {f"depthprune.pipeline.{stage}" for stage in STAGES}
    graph = imports()
    assert stages <= graph.keys()
    assert {(stage, other) for stage in stages for other in graph[stage] & stages} == set()
    assert not graph["depthprune.pipeline.job"] & stages


def test_methods_know_nothing_of_runs():
    wrong = {
        (module, other)
        for module, others in imports().items()
        for other in others
        if room(module) in METHODS and room(other) in ABOVE
    }
    assert wrong == set()


def test_the_root_of_the_package_is_nearly_empty():
    assert len([path for path in PACKAGE.iterdir() if path.is_file()]) <= 6
