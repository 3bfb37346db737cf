"""The names of splits, as files, folders and keys spell them."""

import logging
import re

from depthprune.errors import UserError

logger = logging.getLogger("depthprune")

_WORDS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "eval": "validation",
    "evaluation": "validation",
}
_SHARD = re.compile(r"(?P<split>.+)-\d{5}-of-\d{5}")
_NO_SPLIT = {"data", "part", "shard", "file"}

FOR_TRAINING = ("train",)
FOR_EVALUATION = ("test", "validation", "train")
"""Which split is read where none is named: the first of these that is there."""


def choose_split(source: str, there: list[str], splits: tuple[str, ...]) -> str:
    """The first of `splits` that is `there`, or goes by another name there; the others are said.

    Raises `UserError` where none is.
    """
    for wanted in splits:
        for name in there:
            if wanted == name or (named_split(name) or name) == named_split(wanted):
                if len(splits) > 1 or splits == FOR_TRAINING:
                    _say_others(source, name, [other for other in there if other != name])
                return name
    raise UserError(f"{source}: no split {splits[0]!r}; there: {', '.join(there)}; write {source}:SPLIT")


def _say_others(source: str, name: str, others: list[str]) -> None:
    if others:
        logger.info("%s: reads the split %s; also there: %s", source, name, ", ".join(others))


def named_split(word: str) -> str | None:
    """The split that a word is a name of: `dev` is the validation split; None for any other word."""
    return _WORDS.get(word.lower())


def split_of(stem: str, folders: tuple[str, ...] = ()) -> str | None:
    """The split that a file belongs to, by its name without suffixes, or else by the folders that it lies in.

    `train_sft-00000-of-00003` is of the split `train_sft`, as on the hub: beside it there may be `train_gen`.
    """
    shard = _SHARD.fullmatch(stem)
    if shard and (name := shard["split"].lower()) not in _NO_SPLIT:
        return named_split(name) or name
    for word in re.split(r"[^a-z]+", stem.lower()):
        if word in _WORDS:
            return _WORDS[word]
    return next((_WORDS[name.lower()] for name in reversed(folders) if name.lower() in _WORDS), None)
