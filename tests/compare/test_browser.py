"""The report of a comparison as a browser shows it; without a Chromium there is nothing to look with."""

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from chromium import DARK, LIGHT, Page
from compare.results_of import result

from depthprune.compare.results import Results
from depthprune.compare.table import comparison
from depthprune.compare.write import write_report_of

METHODS = ("gradpruner", "reverse", "Flatten", "random learning_rate=0.0003")
MEASURES = (("news", "accuracy"), ("news", "perplexity"))
LAYERS = 48
UNITS = {"": 1, "%": 0.01, "K": 1e3, "M": 1e6, "MiB": 2**20, "GiB": 2**30, "s": 1, "min": 60, "h": 3600}


def several() -> dict[str, Any]:
    """Methods, sizes and seeds whose values, times and sizes are each of another order of magnitude."""
    draw = random.Random(0)
    done = [of_run("dense", None, seed, 143_182_976, draw) for seed in (1, 2)]
    for ratio, parameters in ((0.25, 120_888_448), (0.4, 4_167_552), (0.05, 130_000)):
        done += [of_run(name, ratio, seed, parameters, draw) for name in METHODS for seed in (1, 2)]
    sources = {"model": "some-org/some-model", "train": "news.jsonl", "eval": ["a/b"], "calibration": None}
    latency = {
        str(one.layers): {"share": one.layers / LAYERS, "error": 0.01, "of": "processor time"}
        for one in done
        if one.ratio
    }
    return comparison(Results(done, {"z-1": "no memory"}, ["y-1"], {}, sources, latency))


def of_run(method: str, ratio: float | None, seed: int, parameters: int, draw: random.Random) -> Any:
    """One run, measured twice: accuracy on rows, and a perplexity."""
    removed = () if ratio is None else tuple(sorted(draw.sample(range(LAYERS), round(ratio * LAYERS))))
    rows = [float(draw.random() < draw.choice((0.4, 0.9))) for _ in range(40)]
    one = result(method, rows, seed, ratio, MEASURES[0], removed=removed, tuning="lora")
    spread = {**one.results[MEASURES[0]], "metric": MEASURES[1][1], "value": 10 ** draw.uniform(0, 5)}
    return replace(
        one,
        results={**one.results, MEASURES[1]: spread},
        base={**one.base, MEASURES[1]: {**spread, "value": 70.0}},
        layers=LAYERS - len(removed),
        num_layers=LAYERS,
        parameters=parameters,
        base_parameters=143_182_976,
        seconds={key: 10 ** draw.uniform(-1, 4) for key in ("choosing", "tuning", "all")},
        peak_bytes=int(2 ** draw.uniform(20, 34)) if ratio else 0,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    write_report_of(folder, several())
    return folder / "report.html"


@pytest.fixture
def page(report: Path, browser: Page) -> Page:
    browser.look(1200)
    browser.open(report)
    return browser


def column(page: Page, number: int) -> list[str]:
    """What a reader sees in a column from top to bottom, the first line of each cell."""
    rows = page.read("[...document.querySelectorAll('.sortable tbody tr')].map(row => row.innerText)")
    cells = f"[...document.querySelectorAll('.sortable tbody tr')].map(row => row.cells[{number}].innerText)"
    found = [cell.strip().split("\n")[0].split("±")[0].strip() for cell in page.read(cells)]
    assert len(found) == len(rows) == 14
    return found


def amount(shown: str) -> float:
    """`1 min 22 s` is 82: the sum of all numbers that stand there, by their units."""
    parts = re.findall(r"([\d.,]+(?:e[+-]\d+)?)\s*(%|\w*)", shown)
    assert parts, shown
    return sum(float(number.replace(",", "")) * UNITS[unit] for number, unit in parts)


def test_a_click_sorts_each_column_and_another_one_the_other_way(page: Page) -> None:
    headings = page.read("[...document.querySelectorAll('.sortable thead th')].map(head => head.innerText)")
    assert len(headings) == 9
    for number, heading in enumerate(headings):
        for up in (True, False):
            page.read(f"document.querySelectorAll('.sortable thead button')[{number}].click()")
            shown = column(page, number)
            if heading == "gone":  # of the whole model it is none, not unknown
                shown = ["0%" if cell == "–" else cell for cell in shown]
            known = [cell for cell in shown if cell != "–"]
            assert shown == known + ["–"] * (len(shown) - len(known))
            values = [cell.casefold() if heading == "method" else amount(cell) for cell in known]
            assert values == sorted(values, reverse=not up) and len({*values}) > 2, (heading, shown)
            said = page.read("[...document.querySelectorAll('.sortable [aria-sort]')].map(h => h.ariaSort)")
            assert said == ["ascending" if up else "descending"]


def test_the_keyboard_sorts_too(page: Page) -> None:
    for number, key in ((1, "Tab"), (2, "Tab"), (3, "Tab")):
        page.press(key)
        focused = "[...document.querySelectorAll('.sortable thead button')].indexOf(document.activeElement)"
        assert page.read(focused) == number - 1
    orders = []
    for key in ("Enter", " "):
        page.press(key)
        orders.append([amount(cell) for cell in column(page, 2)])
    assert orders[0] == sorted(orders[0]) and orders[1] == orders[0][::-1] and len({*orders[0]}) > 1


def test_nothing_leaves_and_nothing_is_complained_of(page: Page, report: Path) -> None:
    page.read("document.querySelectorAll('.sortable thead button').forEach(button => button.click())")
    page.look(390, DARK)
    page.print(report.with_name("page.pdf"))
    assert page.requests == [report.as_uri()]
    assert page.read("performance.getEntriesByType('resource').length") == 0
    assert page.said == []


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_phone_and_screen_can_be_read(page: Page, scheme: str) -> None:
    for width in (390, 1200):
        page.look(width, scheme)
        assert page.read("document.documentElement.scrollWidth") <= width
        figures = "[...document.querySelectorAll('figure svg')].filter(one => one.checkVisibility()).length"
        assert page.read(figures) == 2
        texts = page.texts()
        words = {text["words"] for text in texts}
        assert {"Flatten", "Pareto front", "Which layers go", "Quality against latency"} <= words
        assert [text for text in texts if text["contrast"] < 4.5 or text["height"] < 7] == []


def test_a_value_stands_on_one_line_bold_or_not(page: Page) -> None:
    for width in (390, 1200):
        page.look(width)
        lines = "[...document.querySelectorAll('.sortable tbody td > *')].map(e => e.getClientRects().length)"
        assert set(page.read(lines)) == {1}
        heights = "[...document.querySelectorAll('.sortable tbody tr')].map(row => row.cells[4].offsetHeight)"
        assert max(page.read(heights)) < 2 * 16 * 1.55 + 16  # two lines, and what stands between rows


def test_paper_holds_the_whole_table(page: Page) -> None:
    page.look(718, DARK, "print")  # A4 without the margins
    assert page.read("document.documentElement.scrollWidth") <= 718
    assert page.read("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert [text for text in page.texts() if text["contrast"] < 4.5] == []
