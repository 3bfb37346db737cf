"""What is measured, and for how long. Read before torch is imported."""

import re
from typing import NamedTuple

from pydantic import Field, field_validator

from depthprune.errors import UserError
from depthprune.settings import Settings

SHAPE = re.compile(r"(\d{1,6})x(\d{1,7})")


class Shape(NamedTuple):
    """Sequences at once, and the tokens of each: of a prompt, or of a row that is trained on."""

    batch: int
    length: int


class BenchSettings(Settings):
    """The options of `depthprune bench`."""

    shapes: tuple[Shape, ...] | None = None
    """By default `DEFAULT_SHAPES`, as far as the models' context goes."""
    new_tokens: int = Field(8, ge=2)
    """Written after each prompt."""
    seconds: float = Field(300, gt=0)
    """At most, about; it ends as soon as the ratios are known to 1 %, or after a few rounds of each."""
    draft_lengths: tuple[int, ...] = (2, 4, 8)
    """Tokens that a draft proposes at a time."""

    @field_validator("draft_lengths")
    @classmethod
    def _all_are_lengths(cls, lengths: tuple[int, ...]) -> tuple[int, ...]:
        if not lengths or min(lengths) < 1 or len(set(lengths)) < len(lengths):
            raise ValueError("write lengths from 1 on, each once, such as 2,4,8")
        return lengths


DRAFT_TOKENS = 32
"""New tokens by default where drafts are measured, whose texts should be longer than a draft."""
DEFAULT_SHAPES = (Shape(1, 64), Shape(4, 64))


def parse_shapes(text: str) -> tuple[Shape, ...]:
    """`1x128,8x256` → (Shape(1, 128), Shape(8, 256)); raises UserError for anything else."""
    found = []
    for part in text.split(","):
        match = SHAPE.fullmatch(part.strip())
        if match is None or "0" in (match[1].lstrip("0") or "0", match[2].lstrip("0") or "0"):
            raise UserError(f"--shapes {text!r:.100}: write batch x length, such as 1x128,8x256")
        found.append(Shape(int(match[1]), int(match[2])))
    return tuple(dict.fromkeys(found))


def parse_lengths(text: str) -> list[int]:
    """`2,4,8` → [2, 4, 8]; raises UserError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d{1,4}", part) for part in parts):
        raise UserError(f"--draft-lengths {text!r:.100}: write numbers of tokens, such as 2,4,8")
    return [int(part) for part in parts]


def fitting_shapes(asked: tuple[Shape, ...] | None, new_tokens: int, context: int | None) -> list[Shape]:
    """The shapes to measure, whose texts fit the models' context; raises UserError where one does not.

    Nobody asked for the default ones: they are shortened.
    """
    longest = None if context is None else context - new_tokens
    if longest is not None and longest < 1:
        raise UserError(f"--new-tokens {new_tokens}: the model's context has {context}: ask for fewer")
    if asked is None:
        cut = [
            Shape(s.batch, s.length if longest is None else min(s.length, longest)) for s in DEFAULT_SHAPES
        ]
        return list(dict.fromkeys(cut))
    for shape in asked:
        if longest is not None and shape.length > longest:
            raise UserError(
                f"--shapes {shape.batch}x{shape.length}: with {new_tokens} new tokens that is beyond the "
                f"model's context of {context}: ask for a length of {longest} at most"
            )
    return list(asked)
