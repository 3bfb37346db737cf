"""Documents that are nearly valid: a valid one in which a few places hold something else."""

import copy
import json
from typing import Any

from hypothesis import strategies as st

ODD_TEXT = [
    "",
    "a" * 5000,
    "\0",
    "..",
    "/etc/passwd",
    "../x",
    "\u202e",
    "\ud800",
    "null",
    "NaN",
    "{{ 1 }}",
    "%s",
]
ODD_NUMBERS = [-1, 0, 1, 2, 7, 10**9, 2**31, 2**63, 10**30, -(10**30), 0.5, -0.0, 1e308]
NOT_FINITE = [float("nan"), float("inf"), -float("inf")]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from(ODD_NUMBERS + NOT_FINITE),
    st.text(max_size=20),
    st.sampled_from(ODD_TEXT),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def deep(levels: int) -> Any:
    found: Any = 1
    for _ in range(levels):
        found = [found]
    return found


def paths(document: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where a value stands, for every value in a document."""
    keys: Any = ()
    if isinstance(document, dict):
        keys = document.keys()
    elif isinstance(document, list):
        keys = range(len(document))
    return [here, *(path for key in keys for path in paths(document[key], (*here, key)))]


@st.composite
def changed(draw: Any, valid: Any, others: "st.SearchStrategy[Any]" = values) -> Any:
    """The valid document with up to three of its values, keys or elements changed, taken away or added."""
    document = copy.deepcopy(valid)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths(document)))
        if not path:
            if draw(st.integers(0, 20)) == 20:
                return draw(others)
            continue
        holder = document
        for key in path[:-1]:
            holder = holder[key]
        _change(draw, holder, path[-1], others)
    return document


def _change(draw: Any, holder: Any, key: Any, others: "st.SearchStrategy[Any]") -> None:
    how = draw(st.sampled_from(["replace", "replace", "take away", "add", "nest", "swap"]))
    if how == "take away":
        del holder[key]
    elif how == "add" and isinstance(holder, dict):
        holder[draw(st.text(max_size=8) | st.sampled_from(ODD_TEXT))] = draw(others)
    elif how == "nest":
        holder[key] = deep(draw(st.sampled_from([1, 30, 100])))
    elif how == "swap":
        other = draw(st.sampled_from(list(holder if isinstance(holder, dict) else range(len(holder)))))
        holder[key], holder[other] = holder[other], holder[key]
    else:
        holder[key] = draw(others)


@st.composite
def garbled(draw: Any, texts: "st.SearchStrategy[bytes]") -> bytes:
    """Bytes of which a piece is now and then lost, repeated or replaced."""
    content = draw(texts)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(0, 9)))
        piece = draw(st.sampled_from([b"", content[start:end] * 2]) | st.binary(max_size=6))
        content = content[:start] + piece + content[end:]
    return content


def as_json(documents: "st.SearchStrategy[Any]") -> "st.SearchStrategy[bytes]":
    return garbled(documents.map(lambda found: json.dumps(found).encode("utf-8", "surrogatepass")))
