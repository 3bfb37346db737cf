"""Writes what a comparison has found so far: comparison.json, and report.html."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from depthprune.compare.page import html_page
from depthprune.compare.results import Results
from depthprune.compare.table import comparison
from depthprune.errors import plain_values
from depthprune.files import write_json, write_text

RESULTS, REPORT = "comparison.json", "report.html"


def write_comparison(root: Path, results: Results, kept: Sequence[Mapping[str, Any]] = ()) -> None:
    """Both files, of what is there; what failed or is missing is said in them."""
    found = comparison(results, kept)
    write_json(root / RESULTS, found)
    write_report_of(root, found)


def write_report_of(root: Path, found: dict[str, Any]) -> None:
    """`report.html` anew, from the content of `comparison.json`."""
    write_text(root / REPORT, html_page(plain_values(found)))
