"""YAML from outside, read in bounded time and memory: a few bytes of it can stand for gigabytes."""

from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from depthprune.errors import UserError

LONGEST = 50_000
"""Characters; a recipe with every default written out has some 2,000."""
MOST_VALUES = 10_000
"""Values once every alias is written out."""
DEEPEST = 20
LONGEST_INTEGER = 18
"""Digits; what has more does not fit into 64 bits."""


def read_yaml(text: str, what: str) -> Any:
    """The document in `text`; raises UserError, beginning with `what`, where that is none or too much."""
    if len(text) > LONGEST:
        raise UserError(f"{what} is longer than {LONGEST:,} characters: a recipe takes far less")
    if _open_brackets(text) > DEEPEST:  # PyYAML's time grows with their square
        raise UserError(f"{what} is nested too deeply: {DEEPEST} levels are read")
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {})
        return loader.construct_document(node)
    except RecursionError:
        raise UserError(f"{what} is nested too deeply: {DEEPEST} levels are read") from None
    except (yaml.YAMLError, ValueError) as problem:
        raise UserError(f"{what} is not YAML: {' '.join(str(problem).split()):.300}") from None


def read_mapping(path: Path, holds: str) -> dict[str, Any]:
    """The YAML mapping in a file; UserError where it is none, `holds` saying what was expected."""
    with path.open("rb") as file:
        content = file.read(4 * LONGEST + 1)  # of UTF-8; a longer file is not read to its end
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not YAML: its bytes are no UTF-8 text; save it as such") from None
    values = read_yaml(text, str(path))
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path} holds no {holds}")
    return values


def _open_brackets(text: str) -> int:
    """The most that are open at once; those inside strings are taken for brackets, too."""
    steps = (1 if sign in "[{" else -1 for sign in text if sign in "[]{}")
    return max(accumulate(steps), default=0)


def _measure(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(values, levels) of a node with its aliases written out; `known` holds those of nodes seen before.

    Raises ValueError where either is too large; a node inside itself has no end.
    """
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = (MOST_VALUES + 1, DEEPEST + 1)  # what it counts for where it holds itself
    children = [_measure(child, known) for child in _children(node)]
    values = 1 + sum(count for count, _ in children)
    levels = 1 + max((depth for _, depth in children), default=0)
    if values > MOST_VALUES:
        raise ValueError(f"it stands for more than {MOST_VALUES:,} values")
    if levels > DEEPEST:
        raise ValueError(f"it is nested too deeply, {DEEPEST} levels are read")
    if node.tag == "tag:yaml.org,2002:int" and len(node.value) > LONGEST_INTEGER:
        raise ValueError(f"{node.value!r:.40} has too many digits")
    known[id(node)] = values, levels
    return values, levels


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []
