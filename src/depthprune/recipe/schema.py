"""The JSON schema of a recipe, by which editors complete and check one."""

from typing import Any

from depthprune.recipe.recipe import SLOTS, Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def recipe_schema() -> dict[str, Any]:
    """Of a recipe's YAML: each slot is one of its methods, told apart by the key that names it."""
    whole = Recipe.model_json_schema()
    definitions = whole.get("$defs", {})
    for slot, (tag, methods) in SLOTS.items():
        choices = []
        for name, settings in methods.items():
            one = settings.model_json_schema()
            definitions |= one.pop("$defs", {})
            one["properties"] = {**one["properties"], tag: {"const": name}}
            one["required"] = sorted({*one.get("required", ()), tag})
            choices.append(one)
        whole["properties"][slot] = {"oneOf": choices}
    used = _references(whole["properties"], definitions)
    return {"$schema": DIALECT, **whole, "$defs": {name: definitions[name] for name in sorted(used)}}


def _references(part: Any, definitions: dict[str, Any]) -> set[str]:
    """The definitions that a part of the schema refers to, and those that these refer to."""
    found: set[str] = set()
    todo = [part]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            name = str(one.get("$ref", "")).removeprefix("#/$defs/")
            if name and name not in found:
                found.add(name)
                todo.append(definitions[name])
            todo += one.values()
        elif isinstance(one, list):
            todo += one
    return found
