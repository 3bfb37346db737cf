"""The demo: tune a small model for a task it has not seen, prune it by 40 %, and compare."""

import logging
from pathlib import Path
from typing import Any

from depthprune.demo import demo_model, write_tickets
from depthprune.pipeline.folder import RunFolder
from depthprune.pipeline.run import run
from depthprune.recipe.load import load_recipe

log = logging.getLogger("depthprune")

RATIO = 0.4
TUNING = {
    "training.method": "full",
    "training.learning_rate": 2e-3,
    "training.per_device_train_batch_size": 16,
    "training.gradient_accumulation_steps": 1,
    "training.num_train_epochs": 1,
    "training.save_steps": 0.5,
}


# Rows of a run's table → what follows its title here; where nothing was merged there is no repaired row.
SUFFIXES = {"pruned": "", "repaired": ", merged", "pruned+tuned": "+tuned"}


def run_demo(output: Path) -> dict[str, Any]:
    """Two runs into folders of `output`, GradPruner and the last layers cut; returns both tables as one.

    Called again, it goes on where it was, and prints the same table at once when all is there.
    """
    train, test = write_tickets(output / "data")
    tables = {}
    for recipe, title in (("gradpruner", "GradPruner"), ("reverse", "last layers cut")):
        log.info("── %s, %.0f %% of the layers ──", title, 100 * RATIO)
        overrides = {**TUNING, "selection.ratio": RATIO, "baseline": recipe == "gradpruner"}
        loaded = load_recipe(
            recipe, model=str(demo_model()), train=str(train), eval=(str(test),), **overrides
        )
        tables[title] = RunFolder(run(loaded, output / recipe)).read("eval.json")["rows"]
    rows = {name: tables["GradPruner"][name] for name in ("base", "base+tuned")}
    for title, table in tables.items():
        rows |= {f"{title}{suffix}": table[name] for name, suffix in SUFFIXES.items() if name in table}
    combined = {"rows": rows}
    RunFolder(output).own.mkdir(exist_ok=True)
    RunFolder(output).write("eval.json", combined)
    return combined
