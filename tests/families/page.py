"""docs/families.md: below what the walk cannot say, what it found."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from small import CAUSAL

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
BEGIN = "<!-- from here on written by make test-families -->\n"
END = "<!-- up to here -->\n"
STATUSES = {
    "passes": "pass",
    "partly": "pass in part, and refuse the rest",
    "refused": "are refused",
    "not decoder-only": "are no decoder-only language models, and are refused as such",
    "not buildable": "could not be built",
    "not checkable": "could not be checked",
    "FAULT": "are at fault",
}

Results = dict[str, dict[str, Any]]


def figure(found: dict[str, Any]) -> str:
    """How many types of each mapping did what, a line each."""
    causal, images = split(found)
    return "\n".join(
        f"{name}: {counted(types)}"
        for name, types in (("causal-LM types", causal), ("image-text types", images))
    )


def split(found: dict[str, Any]) -> tuple[Results, Results]:
    """The results of the causal-LM mapping's types, and of those in the image-text one alone."""
    causal = {kind: result for kind, result in found["types"].items() if kind in CAUSAL}
    return causal, {kind: result for kind, result in found["types"].items() if kind not in CAUSAL}


def counted(types: Results) -> str:
    """A sentence with the number of types of each status."""
    counts = Counter(result["status"] for result in types.values())
    said = ", ".join(f"{counts[status]} {does}" for status, does in STATUSES.items() if counts[status])
    return f"of {len(types)}, {said}"


def write_page(found: dict[str, Any]) -> None:
    """Replaces what stands between the marks of the page."""
    PAGE.write_text(with_results(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


def with_results(text: str, found: dict[str, Any]) -> str:
    """The page's text with these results between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{_written(found)}{END}{after}"


def _written(found: dict[str, Any]) -> str:
    causal, images = split(found)
    version = found["transformers"]
    return (
        f"\nWith transformers {version}, of the {len(causal)} types of `AutoModelForCausalLM`:\n\n"
        f"{_lists(causal)}\nOf {len(images)} more of `AutoModelForImageTextToText`:\n\n{_lists(images)}\n"
    )


def _lists(types: Results) -> str:
    by_status = {status: {k: r for k, r in types.items() if r["status"] == status} for status in STATUSES}
    lines = []
    for status, does in STATUSES.items():
        if names := by_status[status]:
            alone = status in ("passes", "not decoder-only")
            lines.append(f"- **{len(names)} {does}**" + (f": {', '.join(names)}." if alone else ":"))
            lines += [] if alone else [f"  - {kind}: {_reason(result)}" for kind, result in names.items()]
    return "\n".join(lines) + "\n"


def _reason(result: dict[str, Any]) -> str:
    """Which removals are refused, and why the first of them is."""
    if "removals" not in result:
        return _short(result["reason"].partition(". ")[0])
    refused = {name: said for name, said in result["removals"].items() if said != "passes"}
    which = "all removals" if len(refused) == len(result["removals"]) else ", ".join(refused)
    return f"{which}: {_short(next(iter(refused.values())).removeprefix('passes in memory; '))}"


def _short(reason: str) -> str:
    reason = re.sub(r"^\S+'s config cannot say what remains without layers [^:]*: ", "", reason)
    return re.sub(r"\d+\.\d{5,}", lambda number: f"{float(number[0]):.3g}", reason)
