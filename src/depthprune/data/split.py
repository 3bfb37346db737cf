"""Cutting off rows for evaluation that training never sees."""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import replace

from depthprune.data.examples import Examples
from depthprune.errors import UserError


def split_off(examples: Examples, seed: int, size: int | None = None) -> tuple[Examples, Examples]:
    """(rows to train on, rows to evaluate on), disjoint, in the order they had.

    `size` rows are drawn for evaluation, by default a tenth, at least 1 and at most 1000. Rows with the same
    prompt (or text) always land on the same side, so the evaluation part may differ from `size` where many
    are alike. Raises `UserError` when there are too few different rows to leave one on either side.
    """
    groups: dict[str, list[int]] = {}
    column = "text" if examples.kind == "text" else "prompt"
    for i, content in enumerate(examples.rows[column][:]):
        groups.setdefault(json.dumps(content), []).append(i)
    total = len(examples.rows)
    wanted = size if size is not None else min(max(total // 10, 1), 1000)
    if not 0 < wanted < total or len(groups) < 2:
        raise UserError(
            f"{examples.source}: {total} rows, {len(groups)} of them different, are too few to cut off "
            f"{wanted} for evaluation; give a file for evaluation, or more rows"
        )
    shuffled = list(groups.values())
    random.Random(seed).shuffle(shuffled)
    held_out = _fill(shuffled, wanted)
    kept = sorted(set(range(total)).difference(held_out))
    return _part(examples, kept, "train"), _part(examples, held_out, "held-out")


def rows_in_both(train: Examples, evaluated: Examples) -> int:
    """How many rows of `evaluated` are rows of `train`, but for white space."""
    seen = set(_contents(train))
    return sum(content in seen for content in _contents(evaluated))


def _contents(examples: Examples) -> Iterator[bytes]:
    """A hash of what is learned from each row, and of what comes before it."""
    columns = ("text",) if examples.kind == "text" else ("prompt", "completion")
    for row in zip(*(examples.rows[column][:] for column in columns), strict=True):
        whole = json.dumps(row, sort_keys=True) if examples.kind == "messages" else "".join(row)
        yield hashlib.blake2b(" ".join(whole.split()).encode(), digest_size=16).digest()


def _fill(groups: list[list[int]], wanted: int) -> list[int]:
    """Takes whole groups while they fit; at least the smallest one."""
    taken: list[int] = []
    for group in groups:
        if len(taken) + len(group) <= wanted:
            taken += group
    return sorted(taken or sorted(groups, key=len)[0])


def _part(examples: Examples, indices: list[int], part: str) -> Examples:
    name = examples.name if part == "train" else f"{examples.name} ({part})"
    return replace(examples.select(indices), name=name)


def spread(total: int, limit: int) -> list[int]:
    """`limit` indices of `total`, evenly spaced, so that a file sorted by class gives all of them."""
    limit = min(limit, total)
    return [i * total // limit for i in range(limit)]
