"""Layer numbers in what a quantised checkpoint says of single modules: left alone they would name others.

An entry is a module's name or a pattern; which modules it means depends on who reads it. An entry stays where
it means the kept modules that it meant before, is renumbered where that makes it so, is written out as the
modules' names where nothing shorter is right, goes where all that it meant is gone, and else is refused.
"""

import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from depthprune.errors import UserError
from depthprune.model.config_file import CONFIG
from depthprune.model.quantised import CONFIG_KEYS, SIDE_FILES

Reads = Callable[[str, str], bool]
"""Whether an entry means the module of a name."""


def _names_or_patterns(entry: str, name: str) -> bool:
    """compressed-tensors, torchao, AutoRound: a name, or a regular expression after `re:`."""
    return re.match(entry[3:], name) is not None if entry.startswith("re:") else entry == name


def _wildcards(entry: str, name: str) -> bool:
    """ModelOpt, Quark."""
    return (
        re.match(entry[3:], name) is not None if entry.startswith("re:") else fnmatch.fnmatchcase(name, entry)
    )


def _prefix_or_end(entry: str, name: str) -> bool:
    """transformers, bitsandbytes, AWQ, fp8: up to a dot, as a regular expression, or at the end."""
    return re.match(rf"(?:{entry})(?:(?<=\.)|(?=\.|$))", name) is not None or name.endswith(entry)


def _dynamic(entry: str, name: str) -> bool:
    """GPTQModel: a regular expression after +: (other settings) or -: (not quantised)."""
    return re.match(re.sub(r"^[+-]:", "", entry), name) is not None


READS: dict[str, Reads] = {
    "dynamic": _dynamic,
    "llm_int8_skip_modules": _prefix_or_end,
    "modules_to_not_convert": _prefix_or_end,
    "skip_modules": _prefix_or_end,
    "exclude_modules": _wildcards,
    "exclude": _wildcards,
    "layer_quant_config": _wildcards,
}
PATTERN = re.compile(r"[\\\[\](){}?+*|^$]")

SLOW_PATTERN = re.compile(r"[+*}]\)[+*{]")
"""A repetition inside another: matching may take for ever."""


@dataclass(frozen=True)
class Renumbering:
    """Which names the modules of a checkpoint have before and after layers went.

    Attributes:
        names: of modules and tensors, in memory and on disk, all layers.
        prefixes: what stands before the number of the language model's layers in them.
        kept: the original indices of the layers that stay.
    """

    names: frozenset[str]
    prefixes: tuple[str, ...]
    kept: tuple[int, ...]

    def mended(self, value: Any, where: str, key: str = "", wildcards: bool = False) -> Any:
        """A part of a quantisation config, with every entry in it as the kept layers need it.

        Raises UserError, which names the entry and begins with `where`, for what no rule can say exactly.
        """
        if isinstance(value, dict):
            reads = _reads(key, wildcards)
            pairs = [
                (name, self.mended(part, where, str(old), wildcards))
                for old, part in value.items()
                for name in self._entry(str(old), reads, f"{where}: {key}".rstrip(": "))
            ]
            return dict(pairs)
        if not isinstance(value, list):
            return self._plain_value(value, where, key)
        if all(isinstance(part, str) for part in value):
            reads = _reads(key, wildcards)
            return list(
                dict.fromkeys(new for old in value for new in self._entry(old, reads, f"{where}: {key}"))
            )
        if "layer" in key and not any(isinstance(part, dict) for part in value):
            raise self._refusal(f"{where}: {key}", str(value))
        return [self.mended(part, where, key, wildcards) for part in value]

    def _plain_value(self, value: Any, where: str, key: str) -> Any:
        if isinstance(value, str) and re.search(rf"\b{re.escape(self._leaf)}\.\d", value):
            raise self._refusal(f"{where}: {key}", value)
        return value

    def _entry(self, entry: str, reads: Reads, where: str) -> list[str]:
        """What stands in place of one entry: itself, another, several, or nothing."""
        if not re.search(r"\d", entry) and not PATTERN.search(entry):
            return [entry]
        if entry.isdecimal() and "layer" in where.rpartition(" ")[2]:
            raise self._refusal(where, entry)
        named = None if PATTERN.search(entry) else self._number(entry)
        if named and (named[0] in self.prefixes or not any(reads(entry, name) for name in self.names)):
            return [new for new in [self._moved(entry)] if new is not None]
        if SLOW_PATTERN.search(entry):
            raise self._refusal(where, entry)
        try:
            return self._pattern(entry, reads)
        except (re.error, ValueError, RecursionError):
            raise self._refusal(where, entry) from None

    def _pattern(self, entry: str, reads: Reads) -> list[str]:
        meant = {name for name in self.names if reads(entry, name)}
        wanted = {new for name in meant if (new := self._moved(name)) is not None}
        if meant and not wanted:
            return []
        for candidate in (entry, self._rewritten(entry)):
            if {name for name in self._afterwards if reads(candidate, name)} == wanted:
                return [candidate]
        if reads is _prefix_or_end:
            raise ValueError("no list of names means these modules alone")
        if reads is _wildcards and not entry.startswith("re:"):
            return sorted(wanted)
        sign = re.match(r"re:|[+-]:|", entry)
        assert sign is not None
        return [f"{sign[0]}(?:{'|'.join(re.escape(name) for name in sorted(wanted))})$"]

    @cached_property
    def _afterwards(self) -> frozenset[str]:
        return frozenset(new for name in self.names if (new := self._moved(name)) is not None)

    def _number(self, name: str) -> tuple[str, int, str] | None:
        """(what stands before it, the layer's number, what stands behind it), where a name has one."""
        for prefix in (*self.prefixes, f"{self._leaf}."):
            if found := re.fullmatch(rf"({re.escape(prefix)})(\d{{1,6}})(|\..*)", name):
                return found[1], int(found[2]), found[3]
        return None

    @property
    def _leaf(self) -> str:
        """What the family calls the list of its layers, such as "layers" or "h"."""
        return self.prefixes[0].rstrip(".").rpartition(".")[2]

    def _moved(self, name: str) -> str | None:
        """A module's name afterwards; None if it goes. Names outside the layers stay."""
        if (parts := self._number(name)) is None:
            return name
        before, number, behind = parts
        return f"{before}{self.kept.index(number)}{behind}" if number in self.kept else None

    def _rewritten(self, entry: str) -> str:
        """A pattern with the numbers behind the layers' name moved, where they are kept."""

        def moved(found: re.Match[str]) -> str:
            number = int(found[2])
            return f"{found[1]}{self.kept.index(number)}" if number in self.kept else found[0]

        return re.sub(rf"({re.escape(self._leaf)}\\?\.)(\d{{1,6}})", moved, entry)

    def _refusal(self, where: str, entry: str) -> UserError:
        return UserError(
            f"{where} names layers in {entry!r:.200}, and no rule says what it would be without the "
            "removed ones: write the modules' names there, one an entry"
        )


def _reads(key: str, wildcards: bool) -> Reads:
    return READS.get(key, _wildcards if wildcards else _names_or_patterns)


def module_names(modules: Iterable[str], tensors: Sequence[str]) -> frozenset[str]:
    """Names of modules, of tensors, and of the modules that these lie in."""
    found = {name for name in (*modules, *tensors) if name}
    for tensor in tensors:
        parts = tensor.split(".")
        found |= {".".join(parts[:length]) for length in range(1, len(parts))}
    return frozenset(found)


def mended_files(folder: Path, renumbering: Renumbering) -> dict[str, Any]:
    """The JSON files in `folder` that say how it is quantised, as they read once layers are gone.

    Raises UserError as `Renumbering.mended` does, and for a file that is no JSON.
    """
    found = {}
    for name in (CONFIG, *SIDE_FILES):
        path = folder / name
        if not path.is_file():
            continue
        try:
            stated = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            raise UserError(f"{path} is not valid JSON: copy or download it again") from None
        mend = _mended_config if name == CONFIG else _mended_part
        mended = mend(stated, str(path), renumbering)
        if mended != stated:
            found[name] = mended
    return found


def _mended_config(stated: Any, where: str, renumbering: Renumbering) -> Any:
    """config.json, or a part of it such as its text_config."""
    if not isinstance(stated, dict):
        return stated
    return {
        key: _mended_part(part, f"{where}: {key}", renumbering)
        if key in CONFIG_KEYS
        else _mended_config(part, where, renumbering)
        for key, part in stated.items()
    }


def _mended_part(stated: Any, where: str, renumbering: Renumbering) -> Any:
    stated_by = stated.get("quant_method", "") if isinstance(stated, dict) else ""
    wildcards = where.endswith("hf_quant_config.json") or str(stated_by).startswith(("modelopt", "quark"))
    return renumbering.mended(stated, where, wildcards=wildcards)
