"""The report answers with what the run left, all of it and nothing else."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt
from sample_run import front_matter, sample_evaluation, sample_plan, sample_run, sample_scores

from depthprune.errors import OBEYED, plain
from depthprune.pipeline.folder import RunFolder
from depthprune.report import write_report
from depthprune.selection import Plan

# The sections of the page, and the stage whose artifact each one shows.
SECTIONS = {
    "cost": "score",
    "layers": "score",
    "course": "score",
    "notes": "select",
    "merges": "prune",
    "training": "train",
    "results": "evaluate",
}
STAGES = ("score", "select", "prune", "train", "evaluate")


def page(folder: RunFolder) -> str:
    write_report(folder.root)
    return (folder.own / "report.html").read_text()


def sections(html: str) -> set[str]:
    return set(re.findall(r'<section id="([^"]+)"', html))


@pytest.mark.parametrize("until", STAGES)
def test_a_section_for_each_artifact_and_no_other(tmp_path: Path, until: str) -> None:
    html = page(sample_run(tmp_path, until=until))
    expected = {name for name, stage in SECTIONS.items() if STAGES.index(stage) <= STAGES.index(until)}
    assert sections(html) == expected | {"made"}
    assert (tmp_path / "depthprune/mergekit.yaml").is_file() == (until != "score")
    assert (tmp_path / "README.md").is_file() == (until not in ("score", "select"))


def test_a_run_that_did_nothing_yet(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.own.mkdir(parents=True)
    html = page(folder)
    assert "Nothing has been done to the model yet." in html
    assert sections(html) == {"made"}  # the environment alone


def test_the_environment_of_the_run_is_kept(tmp_path: Path) -> None:
    folder = sample_run(tmp_path, until="score")
    write_report(folder.root)
    recorded = {**folder.read("environment.json"), "python": "3.11.99"}
    folder.write("environment.json", recorded)
    assert "3.11.99" in page(folder)
    assert folder.read("environment.json") == recorded


def test_every_number_of_the_json_is_on_the_page(tmp_path: Path) -> None:
    datasets = ("news", "finance", "arc", "piqa", "wikitext2-test")
    folder = sample_run(tmp_path, evaluation=sample_evaluation(datasets))
    shown = [float(value) for value in re.findall(r'<data value="([^"]+)"', page(folder))]
    rows = folder.read("eval.json")["rows"].values()
    expected = [result["value"] for row in rows for result in row["results"]]
    expected += [row[key] for row in rows for key in ("parameters", "seconds")]
    expected += [
        cost[key] for cost in folder.read("stages.json").values() for key in ("seconds", "peak_bytes")
    ]
    expected += folder.read("scores.json")["scores"]
    expected += [
        merge[key] for merge in folder.read("recovery.json")["merged"] for key in ("elements", "added")
    ]
    majority = [0.2525] * 4
    assert sorted(shown) == sorted(expected + majority)


def test_what_users_named_is_escaped(tmp_path: Path) -> None:
    nasty = "<script>alert('x')</script>|`a`"
    plan = Plan(16, (3, 4), notes=(nasty,), metric="igia", selection="one-shot")
    folder = sample_run(
        tmp_path, plan=plan, evaluation=sample_evaluation((nasty,)), recipe={"model": nasty, "train": nasty}
    )
    html = page(folder)
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5
    card = (tmp_path / "README.md").read_text()
    assert "<script" not in card.split("---\n", 2)[2]
    table = [line for line in card.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}  # four columns


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    html = page(sample_run(tmp_path))
    links = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', html)
    assert all(link.startswith(("#", "data:")) for pair in links for link in pair if link)
    assert "@import" not in html
    assert re.findall(r"https?://[^\s\"<]*", html) == re.findall(r"http://www.w3.org/[^\s\"<]*", html)


def test_ids_of_the_page_are_unique(tmp_path: Path) -> None:
    ids = re.findall(r'\sid="([^"]+)"', page(sample_run(tmp_path)))
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("metric", ["reverse", "random"])
def test_no_chart_of_scores_that_measured_nothing(tmp_path: Path, metric: str) -> None:
    scores = {"metric": metric, "scores": [-float(i) for i in range(16)], "samples": 0, "rounds": []}
    scores |= {"seconds": 0.1, "peak_bytes": 10**9}
    plan = Plan(16, (14, 15), metric=metric, selection="one-shot")
    html = page(sample_run(tmp_path, until="select", scores=scores, plan=plan))
    assert "<svg" not in html
    assert "comes from no measurement" in html
    assert html.count('<li class="removed"') == 2


def test_the_strip_shows_what_became_of_each_layer(tmp_path: Path) -> None:
    scores = sample_scores(80)
    plan = sample_plan(scores["scores"], removed=32, merged=9)
    html = page(sample_run(tmp_path, 80, until="select", scores=scores, plan=plan))
    found = {int(layer): fate for fate, layer in re.findall(r'<li class="(\w+)" title="layer (\d+)', html)}
    assert [i for i, fate in found.items() if fate == "kept"] == list(plan.kept)
    assert [i for i, fate in found.items() if fate != "kept"] == list(plan.removed)
    assert {i for i, fate in found.items() if fate == "merged"} == set(plan.merged_into)


def test_the_card_of_a_tuned_model(tmp_path: Path) -> None:
    folder = sample_run(tmp_path)
    write_report(folder.root)
    card = (tmp_path / "README.md").read_text()
    front = front_matter(card)
    assert front["base_model"] == "some-org/some-model"
    assert (front["library_name"], front["pipeline_tag"]) == ("transformers", "text-generation")
    assert "first merged into" in card and "fine-tuned (LoRA" in card
    assert "fine-tuning took 130 steps over 130.00 K tokens." in card
    for row in folder.read("eval.json")["rows"].values():
        assert f"{row['results'][0]['value']:.4f}" in card
    assert "| majority class |  |  | 0.2525 |" in card


def test_the_card_names_a_local_base_by_its_folder_alone(tmp_path: Path) -> None:
    base = tmp_path / "private" / "base-7b"
    base.mkdir(parents=True)
    write_report(sample_run(tmp_path / "run", until="prune", recipe={"model": str(base)}).root)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "base_model" not in front_matter(card) and "base-7b" in card
    assert "private" not in card
    html = (tmp_path / "run" / "depthprune" / "report.html").read_text()
    assert "private" not in html[: html.index('<details id="recipe">')]
    assert "It was not fine-tuned after the cut." in card


@pytest.mark.parametrize(
    "name", ["my model: v2", "x\n---\nlicense: mit", "[a](http:b)", "<b>", "\x1b[31m", "ä"]
)
def test_the_name_of_a_folder_stays_out_of_the_front_matter(tmp_path: Path, name: str) -> None:
    base = tmp_path / name
    base.mkdir()
    write_report(sample_run(tmp_path / "run", until="prune", recipe={"model": str(base)}).root)
    front = front_matter((tmp_path / "run" / "README.md").read_text())
    assert front.keys() == {"library_name", "pipeline_tag", "tags"}
    merge = yaml.safe_load((tmp_path / "run" / "depthprune" / "mergekit.yaml").read_text())
    assert {source["model"] for part in merge["slices"] for source in part["sources"]} == {str(base)}


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "[click](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "a | b | c",
    "```\n# heading\n---\nbase_model: evil",
    "{{ 7 * 7 }} {% raw %}",
    "$x$ ~~gone~~ **bold** &amp; <!-- -->",
    "\x1b[31m \u202e \x9b",
    "https://evil.example www.evil.example",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_dataset_may_have_any_name(tmp_path: Path, name: str) -> None:
    folder = sample_run(
        tmp_path, evaluation=sample_evaluation((name,)), recipe={"train": name, "eval": [name]}
    )
    write_report(folder.root)
    html = (folder.own / "report.html").read_text()
    card = (tmp_path / "README.md").read_text()
    shown = " ".join(Text(html).data)
    assert plain(name).replace("\n", " ") in shown.replace("\n", " ")
    assert Text(html).tags == Text(page(sample_run(tmp_path / "other"))).tags
    body = card.split("---\n", 2)[2]
    rendered = MarkdownIt("commonmark").enable("table").render(body)
    assert Text(rendered).tags.isdisjoint({"script", "img", "a", "b", "strong", "hr", "s"})
    cells = {" ".join(cell.split()) for cell in Text(rendered).data}
    assert any(" ".join(plain(name).split()) in cell for cell in cells)
    assert front_matter(card).keys() == {"base_model", "library_name", "pipeline_tag", "tags"}
    assert not OBEYED.search(html + card)


class Text(HTMLParser):
    """The words of a page, and the tags in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.data: list[str] = []
        self.tags: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.data.append(data)


def test_the_artifacts_are_left_as_they_were(tmp_path: Path) -> None:
    folder = sample_run(tmp_path)
    names = (
        "scores.json",
        "plan.json",
        "recovery.json",
        "eval.json",
        "stages.json",
        "recipe.yaml",
        "metrics.jsonl",
    )
    before = {name: (folder.own / name).read_text() for name in names}
    write_report(folder.root)
    assert {name: (folder.own / name).read_text() for name in names} == before
    assert json.loads((folder.own / "environment.json").read_text())["versions"]["torch"]
