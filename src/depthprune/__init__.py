"""Make a large language model shallower: prune whole layers, repair, fine-tune, keep a standard checkpoint.

Names are imported on first use, so that `depthprune --help` answers before torch is loaded.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "UserError": "depthprune.errors",
    "Plan": "depthprune.selection",
    "load_recipe": "depthprune.recipe.load",
    "remove_layers": "depthprune.model.surgery",
    "run": "depthprune.pipeline.run",
    "save_pruned": "depthprune.model.verify",
    "score_layers": "depthprune.importance",
    "select_layers": "depthprune.selection",
    "verify": "depthprune.model.verify",
}
__all__ = [
    "Plan",
    "UserError",
    "load_recipe",
    "remove_layers",
    "run",
    "save_pruned",
    "score_layers",
    "select_layers",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'depthprune' has no attribute {name!r}")
    value = getattr(import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value
