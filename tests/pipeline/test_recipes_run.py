"""Every recipe run whole on a tiny model, and the pages that describe them all."""

import json
import re
from pathlib import Path

import pytest
from runs import LAYERS, model_folder, rows, write_jsonl
from test_score import calibration

from depthprune import load_recipe, run, verify
from depthprune.importance import METRICS
from depthprune.recipe.load import RECIPES, recipe_names
from depthprune.recovery import RECOVERIES
from depthprune.selection import SELECTIONS
from depthprune.training import TRAININGS

PAGES = Path(__file__).parents[2] / "docs" / "methods"
SMALL = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "max_length": 64,
}


def small(name: str, folder: Path):
    """The recipe on a six-layer model; the + of Shortened LLaMA would leave nothing to remove."""
    chosen = load_recipe(name)
    settings = {
        "model": str(folder / "model"),
        "train": str(folder / "train.jsonl"),
        "eval": str(folder / "test.jsonl"),
        "calibration": str(folder / "text.jsonl"),
        "calibration_samples.samples": 64,
        "calibration_samples.length": 16,
    }
    if chosen.training.method != "none":
        settings |= {f"training.{key}": value for key, value in SMALL.items()}
    if chosen.training.method == "partial":
        settings["training.last_layers"] = 2
    if chosen.importance.model_dump()["metric"] == "igia":
        settings["importance.steps"] = 3
    if name == "laco":
        settings["recovery.threshold"] = -1  # layers of a random model are not alike
    if name.startswith("shortened-llama"):
        settings["selection.protect"] = [0, -1]
    return load_recipe(name, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_runs_verifies_and_evaluates(tmp_path, name):
    model_folder(tmp_path / "model")
    calibration(tmp_path, words=900)
    write_jsonl(tmp_path / "train.jsonl", rows(64))
    write_jsonl(tmp_path / "test.jsonl", rows(16, seed=1))
    chosen = small(name, tmp_path)
    folder = run(chosen, tmp_path / "out")
    verify(folder)
    table = json.loads((folder / "depthprune" / "eval.json").read_text())["rows"]
    if chosen.selection.method != "none":
        plan = json.loads((folder / "depthprune" / "plan.json").read_text())
        removed = plan["removed"]
        assert 0 < len(removed) + len(plan.get("silenced", ())) <= LAYERS // 2
        assert table["pruned"]["layers"] == LAYERS - len(removed)
    assert (chosen.training.method != "none") == any(name.endswith("tuned") for name in table)


def index() -> dict[str, set[str]]:
    """The tables of docs/methods/README.md: heading → the names in the first column."""
    sections = re.split(r"^## ", (PAGES / "README.md").read_text(), flags=re.M)[1:]
    return {s.split("\n")[0]: set(re.findall(r"^\| `([^`]+)`", s, flags=re.M)) for s in sections}


def test_the_index_names_every_recipe_and_every_method_and_no_other():
    listed = index()
    assert listed["Recipes"] == set(recipe_names())
    assert listed["Importance metrics"] == set(METRICS)
    assert listed["Selections"] == set(SELECTIONS)
    assert listed["Recoveries"] == set(RECOVERIES)
    assert listed["Trainings"] == set(TRAININGS)


def test_every_page_is_linked_and_every_link_leads_somewhere():
    text = (PAGES / "README.md").read_text()
    links = set(re.findall(r"\]\(([a-z0-9-]+\.md)\)", text))
    assert links == {page.name for page in PAGES.glob("*.md")} - {"README.md"}


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_settings_that_a_page_names_exist(page):
    slots = {"importance": METRICS, "selection": SELECTIONS, "recovery": RECOVERIES, "training": TRAININGS}
    for slot, key in re.findall(r"`(importance|selection|recovery|training)\.([a-z_]+)", page.read_text()):
        if key == "json":
            continue
        known = {field for method in slots[slot].values() for field in method.model_fields}
        assert key in known, f"{slot}.{key}"


def test_every_recipe_says_its_paper_and_resolves():
    for name in recipe_names():
        first = (RECIPES / f"{name}.yaml").read_text()
        assert first.startswith("# ")
