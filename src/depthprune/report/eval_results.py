"""Results of lm-eval's tasks as the hub shows them: `.eval_results/*.yaml` beside the model.

The form is that of https://huggingface.co/docs/hub/eval-results: the hub links each entry to the dataset that
it names, and takes it into that benchmark's table.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from depthprune.files import OWN, read_object, remove_empty, write_text
from depthprune.model.published import read_record

FOLDER = ".eval_results"
KEPT = "lm-eval"
"""In a run's own folder: what `evaluate --tasks` found, a file a call."""
OURS = "# Written by depthprune from what `depthprune evaluate --tasks` found.\n"
DATASET = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""An id on the hub, with its owner."""


def write_eval_results(root: Path) -> None:
    """Makes the files what is known of the model that the run folder is now; nobody else's are touched."""
    wanted = eval_results(root)
    for path in (root / FOLDER).glob("*.yaml"):
        if path.name not in wanted and path.read_text(encoding="utf-8", errors="replace").startswith(OURS):
            path.unlink()
    for name, text in wanted.items():
        (root / FOLDER).mkdir(exist_ok=True)
        write_text(root / FOLDER / name, text)
    remove_empty([root / FOLDER])


def eval_results(root: Path) -> dict[str, str]:
    """File → content, a dataset each: of every task the newest whole result of the published model.

    Tasks over files that are on no hub have no place there, nor have results on a part of the documents.
    """
    record = read_record(root)
    entries: dict[str, dict[str, dict[str, Any]]] = {}
    for path in sorted((root / OWN / KEPT).glob("results_*.json")):
        found = read_object(path) or {}
        if found.get("published") != {"stage": record["stage"], "digest": record["digest"]}:
            continue
        for row in (row for row in found.get("rows", {}).values() if "raw" in row):
            for task, entry in _entries(row["raw"], row["harness"]):
                entries.setdefault(entry["dataset"]["id"], {})[task] = entry
    return {
        f"{dataset.replace('/', '--')}.yaml": OURS + yaml.safe_dump([*tasks.values()], sort_keys=False)
        for dataset, tasks in entries.items()
    }


def _entries(raw: Mapping[str, Any], harness: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each task with its first metric, which is what its authors look at first."""
    for task, config in raw.get("configs", {}).items():
        dataset, count = str(config.get("dataset_path")), raw.get("n-samples", {}).get(task, {})
        first = (config.get("metric_list") or [{}])[0].get("metric")
        values = raw["results"].get(task, {})
        key = next((key for key in values if key.partition(",")[0] == first), None)
        whole = count.get("effective") == count.get("original")
        if key is None or not whole or not DATASET.fullmatch(dataset) or Path(dataset).exists():
            continue
        if not isinstance(values[key], int | float):
            continue
        notes = [key.removesuffix(",none").replace(",", " after "), f"{raw['n-shot'].get(task, 0)}-shot"]
        error = values.get(f"{first}_stderr,{key.partition(',')[2]}")
        if isinstance(error, int | float):
            notes.append(f"standard error {error:.4f}")
        notes.append(f"lm-eval {harness.get('lm_eval')} task {task} version {raw['versions'].get(task)}")
        entry = {"dataset": {"id": dataset, "task_id": _task_id(task, config)}, "value": values[key]}
        if isinstance(raw.get("date"), int | float):
            entry["date"] = f"{datetime.fromtimestamp(raw['date'], UTC):%Y-%m-%dT%H:%M:%SZ}"
        yield task, {**entry, "notes": ", ".join(notes)}


def _task_id(task: str, config: Mapping[str, Any]) -> str:
    """A benchmark's own name of the task: the dataset's part where lm-eval's name begins with it, else that.

    lm-eval's gpqa_diamond_zeroshot is gpqa_diamond there; its gsm8k, of the part main, is gsm8k.
    """
    part = config.get("dataset_name")
    return part if part and task.startswith(str(part)) else task
