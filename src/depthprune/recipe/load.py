"""Recipes from YAML: by name or from a file, with the user's overrides on top, checked as a whole."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from depthprune.errors import UserError
from depthprune.recipe.bounded_yaml import read_mapping, read_yaml
from depthprune.recipe.compatibility import check_combination
from depthprune.recipe.recipe import SLOTS, Calibration, Evaluation, Recipe
from depthprune.settings import build

RECIPES = Path(__file__).parents[1] / "recipes"


def recipe_names() -> list[str]:
    """The recipes that come with depthprune."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, /, **overrides: Any) -> Recipe:
    """A recipe by name or from a YAML file, with overrides by dotted key: `{"training.method": "full"}`.

    An override of a slot's method starts from that method's own defaults; the file's settings of the other
    method are dropped.

    Raises:
        UserError: no such recipe, YAML that does not parse, an unknown key or method, a value out of range.
    """
    values = _read(name_or_path)
    for key in sorted(overrides, key=lambda key: _chooses_method(key) is None):
        _override(values, key, overrides[key])
    for slot, (tag, methods) in SLOTS.items():
        values[slot] = _slot(slot, tag, methods, values.get(slot))
    for key, settings in (("calibration_samples", Calibration), ("evaluation", Evaluation)):
        values[key] = build(settings, _mapping(key, values.get(key)), key)
    if isinstance(values.get("eval"), str):
        values["eval"] = (values["eval"],)
    recipe = build(Recipe, values)
    check_combination(recipe)
    return recipe


def parse_override(text: str) -> tuple[str, Any]:
    """`training.max_steps=130` → ("training.max_steps", 130); values are YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{text!r} is not an override: write KEY=VALUE, such as training.method=full")
    return key, read_yaml(value, f"{text!r:.100}: the value")


def _read(name_or_path: str | Path) -> dict[str, Any]:
    path = Path(name_or_path)
    if str(name_or_path) in recipe_names():
        path = RECIPES / f"{name_or_path}.yaml"
    elif not path.is_file():
        close = get_close_matches(str(name_or_path)[:100], recipe_names(), n=1)
        mend = f"did you mean {close[0]!r}?" if close else f"the recipes are {', '.join(recipe_names())}"
        raise UserError(f"{name_or_path!s:.300}: no such recipe or file; {mend}")
    return read_mapping(path, f"recipe: a mapping with the keys {', '.join(SLOTS)} is expected")


def _chooses_method(key: str) -> str | None:
    slot, _, rest = key.partition(".")
    return slot if slot in SLOTS and rest == SLOTS[slot][0] else None


def _override(values: dict[str, Any], key: str, value: Any) -> None:
    slot = _chooses_method(key)
    if slot is not None:
        tag = SLOTS[slot][0]
        if _mapping(slot, values.get(slot)).get(tag) != value:
            values[slot] = {tag: value}
        return
    *path, last = key.split(".")
    if len(path) > 3:
        raise UserError(f"{key:.100}: no such setting; write SLOT.KEY=VALUE, such as training.max_steps=100")
    for part in path:
        if values.get(part) is None:
            values[part] = {}
        values = values[part]
        if not isinstance(values, dict):
            raise UserError(f"{key}: {part} has no settings of its own")
    values[last] = value


def _mapping(key: str, values: Any) -> dict[str, Any]:
    """A part of a recipe as YAML gave it; a key with nothing behind it has no settings."""
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise UserError(
            f"{key} is {values!r:.100}: write its settings as a mapping, KEY: VALUE on lines of their own"
        )
    return values


def _slot(slot: str, tag: str, methods: dict[str, Any], given: Any) -> Any:
    values = _mapping(slot, given)
    if tag not in values:
        raise UserError(f"{slot}.{tag} is missing: choose one of {', '.join(methods)}")
    method = values[tag]
    if not isinstance(method, str) or method not in methods:
        close = get_close_matches(str(method)[:100], methods, n=1)
        mend = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(methods)}"
        raise UserError(f"{slot}.{tag}: there is no {method!r:.100}; {mend}")
    return build(methods[method], values, slot)
