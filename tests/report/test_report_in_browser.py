"""The report of a run as a browser shows it; without a Chromium there is nothing to look with."""

from pathlib import Path

import pytest
from chromium import DARK, LIGHT, Page
from sample_run import sample_evaluation, sample_run

from depthprune.report import write_report


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    datasets = ("news", "finance", "arc-easy", "piqa", "wikitext2-test")
    folder = sample_run(tmp_path_factory.mktemp("run"), 32, evaluation=sample_evaluation(datasets))
    write_report(folder.root)
    return folder.own / "report.html"


def test_nothing_leaves_and_nothing_is_complained_of(report: Path, browser: Page) -> None:
    browser.open(report)
    browser.read("document.querySelectorAll('summary').forEach(summary => summary.click())")
    browser.print(report.with_name("page.pdf"))
    own, *others = browser.requests
    assert own == report.as_uri() and all(other.startswith("data:image/png;base64,") for other in others)
    assert browser.said == []


@pytest.mark.parametrize("scheme", [LIGHT, DARK])
def test_phone_and_screen_can_be_read(report: Path, browser: Page, scheme: str) -> None:
    browser.open(report)
    for width in (390, 1200):
        browser.look(width, scheme)
        assert browser.read("document.documentElement.scrollWidth") <= width
        texts = browser.texts()
        assert {"Results", "wikitext2-test", "optimizer step"} <= {text["words"] for text in texts}
        assert [text for text in texts if text["contrast"] < 4.5 or text["height"] < 6] == []


def test_paper_is_light_and_wide_enough(report: Path, browser: Page) -> None:
    browser.open(report)
    browser.look(718, DARK, "print")  # A4 without the margins
    assert browser.read("document.documentElement.scrollWidth") <= 718
    assert [text for text in browser.texts() if text["contrast"] < 4.5] == []
