"""float32 or bfloat16, decided once for all runs of a comparison, by the first that asks."""

import logging
import os
from pathlib import Path
from typing import Any

from depthprune.files import delete, read_object, write_json
from depthprune.model.arithmetic import choose_arithmetic
from depthprune.pipeline.inputs import Inputs, load_inputs
from depthprune.recipe.recipe import Recipe

log = logging.getLogger("depthprune")

KEPT = "arithmetic.json"


def in_one_arithmetic(recipe: Recipe, root: Path) -> Recipe:
    """The recipe in the arithmetic of the comparison, unless it names its own."""
    if recipe.arithmetic == "auto" and read_object(root / KEPT) is None:
        settle_for_all(load_inputs(recipe), root)
    return in_known_arithmetic(recipe, root)


def in_known_arithmetic(recipe: Recipe, root: Path) -> Recipe:
    """The same, as far as that has been decided."""
    chosen = (read_object(root / KEPT) or {}).get("dtype")
    if recipe.arithmetic != "auto" or chosen is None:
        return recipe
    return recipe.model_copy(update={"arithmetic": chosen})


def settle_for_all(inputs: Inputs, root: Path) -> dict[str, Any]:
    """What is fastest here, which one trial decides; of several processes the first one's word holds."""
    if (found := read_object(root / KEPT)) is not None:
        return found
    chosen = choose_arithmetic(
        inputs.config, inputs.sizes.total, trust_remote_code=inputs.recipe.trust_remote_code
    )
    mine = root / f".{KEPT}.{os.uname().nodename}-{os.getpid()}"
    write_json(mine, {"dtype": chosen.dtype})
    try:
        if (root / KEPT).exists():  # torn
            delete(root / KEPT)
        os.link(mine, root / KEPT)
    except FileExistsError:
        log.debug("another process was faster")
    except OSError:  # a file system without links
        write_json(root / KEPT, {"dtype": chosen.dtype})
    delete(mine)
    return read_object(root / KEPT) or {"dtype": chosen.dtype}
