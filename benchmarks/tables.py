"""Writes the tables of README and docs anew, from the results that the other scripts left in results/.

    python benchmarks/tables.py
    python benchmarks/tables.py --check      # exit 1 where a table does not say what the results say

A table stands between `<!-- table NAME -->` and `<!-- end -->`, and `TABLES` says what it is made of:

- results/gemma-news.json: `comparison.json` of `depthprune compare --grid benchmarks/results/gemma-news.yaml`
- results/training-free-*.json: of `python benchmarks/training_free.py … --json FILE`
- results/after-tuning.json: of `python benchmarks/news.py … --json FILE`
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGES = (HERE.parent / "README.md", HERE.parent / "docs" / "methods" / "flatten.md")
BARE = "none"


def comparison(name: str) -> list[str]:
    """A row a method and size, with what the tests say against the best of that size."""
    found = json.loads((RESULTS / name).read_text())
    base, (dense,) = found["base"], [row for row in found["rows"] if row["ratio"] is None]
    whole = base["values"][0]
    lines = [
        "| method | layers | parameters | accuracy | each seed | chosen in | layers that went (seed 1) |",
        "|---|---|---|---|---|---|---|",
    ]
    cells = [
        "whole, untuned",
        base["layers"],
        _millions(base),
        f"{whole['value']:.3f} ± {whole['stderr']:.3f}",
    ]
    lines.append(_row(*cells, "–", "–", "–"))
    for row in (dense, *(row for row in found["rows"] if row["ratio"] is not None)):
        (value,) = row["values"]
        each = ", ".join(f"{accuracy:.3f}" for accuracy in value["each"])
        gone = ", ".join(map(str, row["removed"][0])) or "–"
        size = "whole" if row["ratio"] is None else f"{row['ratio']:.0%} gone"
        seconds = f"{row['seconds']['choosing']:.0f} s" if gone != "–" else "–"
        cells = [f"{row['method']}, {size}", row["layers"], _millions(row)]
        lines.append(_row(*cells, f"{value['mean']:.3f} ± {value['stderr']:.3f}", each, seconds, gone))
    return lines


def _millions(row: dict[str, Any]) -> str:
    return f"{row['parameters'] / 1e6:.1f} M"


def training_free(name: str, removed: int, draws: bool = False) -> list[str]:
    """A row a choice: perplexities on both texts, bare, with its paper's repair, and flattened."""
    found = json.loads((RESULTS / name).read_text())
    whole = " / ".join(f"{value:.1f}" for value in found["whole"]["perplexity"])
    cells = [cell for cell in found["cells"] if cell["removed"] == removed and "perplexity" in cell]
    lines = [
        "| chosen by | cut, WikiText-2 / C4 | its paper's repair | flattened | layers (draw 0) | draws |",
        "|---|---|---|---|---|---|",
        _row("whole model", whole, "", "", "", ""),
    ]
    for choice in dict.fromkeys(cell["choice"] for cell in found["cells"]):
        mine = [cell for cell in cells if cell["choice"] == choice]
        made = {repair: [cell for cell in mine if cell["repair"] == repair] for repair in found["repairs"]}
        own = next((repair for repair in made if made[repair] and repair not in (BARE, "flatten")), None)
        if mine:
            repaired = f"{_perplexities(made[own], draws)} ({own})" if own else "–"
            gone = ", ".join(map(str, min(mine, key=lambda cell: cell["draw"])["layers"]))
            counts = sorted({len(kind) for kind in made.values() if kind})
            lines.append(
                _row(
                    choice,
                    _perplexities(made[BARE], draws),
                    repaired,
                    _perplexities(made["flatten"], draws),
                    gone,
                    "–".join(map(str, dict.fromkeys((counts[0], counts[-1])))),
                )
            )
    return lines


def _perplexities(cells: list[dict[str, Any]], draws: bool) -> str:
    """Means over draws of each text, and with `draws` each draw's."""
    if not cells:
        return "–"
    texts = zip(*(cell["perplexity"] for cell in cells), strict=True)
    return " / ".join(
        f"{statistics.mean(text):.1f}" + (f" ({', '.join(f'{x:.1f}' for x in text)})" if draws else "")
        for text in texts
    )


def after_tuning(name: str) -> list[str]:
    """A row a method: accuracy of each seed and their mean."""
    found = json.loads((RESULTS / name).read_text())
    lines = [
        "| method | accuracy, mean of seeds | each seed | layers that went (first seed) |",
        "|---|---|---|---|",
    ]
    for method in dict.fromkeys(cell["method"] for cell in found["cells"]):
        mine = [cell for cell in found["cells"] if cell["method"] == method]
        values = [cell["accuracy"] for cell in mine]
        each = ", ".join(f"{value:.3f}" for value in values)
        mean = f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"
        lines.append(_row(method, mean, each, ", ".join(map(str, mine[0]["layers"]))))
    return lines


def _row(*cells: Any) -> str:
    return f"| {' | '.join(map(str, cells))} |"


TABLES: dict[str, Callable[[], list[str]]] = {
    "gemma-news": lambda: comparison("gemma-news.json"),
    "after-tuning": lambda: after_tuning("after-tuning.json"),
    **{
        f"{model}-{removed}": lambda model=model, removed=removed: training_free(
            f"training-free-{model}.json", removed
        )
        for model, sizes in {"lab": (2, 4, 5), "gemma": (2, 4, 6)}.items()
        for removed in sizes
    },
}


def rewritten(page: str) -> str:
    """The page with all of its tables as the results have them."""

    def table(match: re.Match[str]) -> str:
        lines = "\n".join(TABLES[match[1]]())
        return f"<!-- table {match[1]} -->\n{lines}\n<!-- end -->"

    return re.sub(r"<!-- table (\S+) -->\n.*?<!-- end -->", table, page, flags=re.DOTALL)


def main() -> None:
    """Rewrites the pages, or says which of them would change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [page for page in PAGES if rewritten(page.read_text()) != page.read_text()]
    for page in stale:
        print(f"{page.name}: {'its tables are not those of the results' if check else 'written anew'}")
        if not check:
            page.write_text(rewritten(page.read_text()))
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
