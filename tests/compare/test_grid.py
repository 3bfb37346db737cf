"""The grid of a comparison, before anything runs."""

import pytest
import yaml

from depthprune.compare.grid import cells_of, read_grid
from depthprune.errors import UserError
from depthprune.recipe.load import load_recipe
from depthprune.selection import Sizes

SOURCES = {"model": "m", "train": "t.jsonl", "eval": ("e.jsonl",)}


def names(cells):
    return [(cell.method, cell.ratio, cell.seed) for cell in cells]


def test_recipes_times_ratios_times_seeds_a_seed_at_a_time():
    cells = cells_of(read_grid(None, recipes=("reverse", "random"), ratios=(0.25, 0.4), seeds=2), **SOURCES)
    assert names(cells)[:4] == [
        ("reverse", 0.25, 1),
        ("random", 0.25, 1),
        ("reverse", 0.4, 1),
        ("random", 0.4, 1),
    ]
    assert [cell.seed for cell in cells] == [1] * 4 + [2] * 4
    assert all(cell.recipe.seed == cell.seed and cell.recipe.selection.ratio == cell.ratio for cell in cells)
    assert [c.recipe.importance.seed for c in cells if c.method == "random"] == [1, 1, 2, 2]
    assert len({cell.name for cell in cells}) == len(cells)


def test_the_whole_model_is_tuned_once_for_each_way_and_seed():
    grid = read_grid(None, recipes=("reverse", "random", "reverse-partial"), seeds=2, baseline=True)
    dense = [cell for cell in cells_of(grid, **SOURCES) if cell.ratio is None]
    assert names(dense) == [(f"dense {way}", None, seed) for seed in (1, 2) for way in ("lora", "partial")]
    assert all(cell.recipe.selection.method == "none" for cell in dense)


def test_with_training_data_every_recipe_is_tuned_and_without_none_that_has_none():
    grid = read_grid(None, recipes=("flatten", "reverse"))
    assert [cell.recipe.training.method for cell in cells_of(grid, **SOURCES)] == ["lora", "lora"]
    (cell,) = cells_of(read_grid(None, recipes=("flatten",)), model="m", calibration="c", eval=("e",))
    assert cell.recipe.training.method == "none"


def test_settings_may_vary_and_a_file_holds_it_all(tmp_path):
    path = tmp_path / "grid.yaml"
    vary = {"training.learning_rate": [1e-4, 2e-4]}
    path.write_text(yaml.safe_dump({"recipes": ["reverse"], "ratios": [0.25, 0.5], "vary": vary}))
    cells = cells_of(read_grid(path, ratios=(0.5,), settings={"training.max_steps": 7}), **SOURCES)
    assert [cell.recipe.training.learning_rate for cell in cells] == [1e-4, 2e-4]
    assert {cell.recipe.training.max_steps for cell in cells} == {7}
    assert [cell.method for cell in cells] == ["reverse learning_rate=0.0001", "reverse learning_rate=0.0002"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "no recipes to compare"),
        ({"recipes": ("nope",)}, "no such recipe"),
        ({"recipes": ("reverse", "reverse")}, "twice"),
        ({"recipes": ("reverse",), "ratios": (1.5,)}, "selection.ratio"),
        ({"recipes": ("reverse",), "seeds": 0}, "grid.seeds"),
        ({"recipes": ("finetune",)}, "takes no ratio"),
        ({"recipes": ("reverse",), "settings": {"training.nope": 1}}, "training.nope"),
        ({"recipes": ("reverse",), "vary": {"selection.ratio": (0.1, 0.2)}}, "vary: selection.ratio"),
        ({"recipes": ("reverse",), "vary": {"seed": (1, 2)}}, "vary: seed"),
        ({"recipes": ("reverse",), "settings": {"selection.num_removed": 2}}, "selection.num_removed"),
        ({"recipes": ("reverse",), "settings": {"selection.target_parameters": 9}}, "target_parameters"),
        ({"recipes": ("reverse",), "settings": {"seed": 5}}, "settings: seed"),
    ],
)
def test_bad_input_is_one_line_before_anything_runs(given, said):
    with pytest.raises(UserError, match=said) as problem:
        cells_of(read_grid(None, **given), **SOURCES)
    assert "\n" not in str(problem.value)


def test_the_grid_says_how_much_goes_whatever_a_recipe_of_a_file_says(tmp_path):
    own = load_recipe("reverse", **{"selection.num_removed": 3})
    (tmp_path / "mine.yaml").write_text(own.as_yaml())
    cells = cells_of(read_grid(None, recipes=(str(tmp_path / "mine.yaml"),), ratios=(0.25, 0.5)), **SOURCES)
    assert [len(cell.recipe.selection.rehearse(Sizes(100, [10] * 8)).removed) for cell in cells] == [2, 4]


@pytest.mark.parametrize("content", [b"- a", b"recipes: [", b"\xff\xfe\x00", b"nope: 1\nrecipes: [reverse]"])
def test_a_file_that_is_no_grid(tmp_path, content):
    (tmp_path / "grid.yaml").write_bytes(content)
    with pytest.raises(UserError, match="grid"):
        read_grid(tmp_path / "grid.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_grid(tmp_path / "none.yaml")
