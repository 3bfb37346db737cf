"""The licence of the base model, as its own card states it; a smaller model of it stands under the same."""

from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from depthprune.errors import UserError
from depthprune.recipe.bounded_yaml import read_yaml
from depthprune.report.artifacts import is_hub_id

KEYS = ("license", "license_name", "license_link")
"""Of a card's front matter, as the hub reads them."""
LONGEST = 2**16
"""Characters of a card that are read."""


def licence_of(model: str) -> dict[str, str]:
    """What the card of a folder, or of a hub id that is on this machine, says under `KEYS`."""
    card = try_to_load_from_cache(model, "README.md") if is_hub_id(model) else Path(model) / "README.md"
    if not isinstance(card, str | Path):
        return {}
    try:
        with Path(card).open(encoding="utf-8", errors="replace") as file:
            front = _front_matter(file.read(LONGEST))
    except OSError:  # none there, or none that this user may read
        return {}
    return {key: front[key] for key in KEYS if isinstance(front.get(key), str) and len(front[key]) <= 200}


def _front_matter(text: str) -> dict[str, Any]:
    """The mapping between the first two lines of three dashes; empty where there is none."""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return {}
    try:
        found = read_yaml(parts[1], "the card")
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}
