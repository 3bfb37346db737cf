"""The JSON schema of a recipe says what `load_recipe` says."""

import pytest
import yaml
from jsonschema import Draft202012Validator

from depthprune.recipe.load import RECIPES, load_recipe, recipe_names
from depthprune.recipe.schema import recipe_schema

VALIDATOR = Draft202012Validator(recipe_schema())


def of_recipe(name):
    return yaml.safe_load((RECIPES / f"{name}.yaml").read_text())


def test_it_is_a_schema():
    Draft202012Validator.check_schema(recipe_schema())


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_fits_as_written_and_as_a_run_writes_it(name):
    VALIDATOR.validate(of_recipe(name))
    VALIDATOR.validate(yaml.safe_load(load_recipe(name).as_yaml()))


@pytest.mark.parametrize(
    "wrong",
    [
        {"nope": 1},
        {"selection": {"method": "nope"}},
        {"selection": {"method": "one-shot", "nope": 1}},
        {"importance": {}},
        {"training": {"method": "lora", "max_steps": "many"}},
        {"calibration_samples": {"samples": 0}},
    ],
)
def test_what_is_refused_does_not_fit(wrong):
    assert not VALIDATOR.is_valid({**of_recipe("gradpruner"), **wrong})


@pytest.mark.parametrize("protect", ["0,18-30", [0, -1], 3, ["2-4"]])
def test_layers_as_people_write_them(protect):
    recipe = of_recipe("reverse")
    recipe["selection"]["protect"] = protect
    VALIDATOR.validate(recipe)
    assert load_recipe("reverse", **{"selection.protect": protect}).selection.protect
