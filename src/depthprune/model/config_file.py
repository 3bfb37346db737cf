"""A model's config.json as it was written, before transformers builds anything from it."""

import json
import re
from pathlib import Path
from typing import Any

from depthprune.errors import UserError

CONFIG = "config.json"
LARGEST_FILE = 16 * 2**20
# Configs and models are built with loops over these; the deepest language models have some 130 layers.
COUNTS = re.compile(r"(n|num)_(.*_)?(layers?|blocks)|(.*_)?depth|layers|attention_types")
MOST_LAYERS = 512
MOST_LABELS = 100_000


def local_folder(path_or_id: str | Path) -> Path | None:
    """The folder, or None for a hub id such as "meta-llama/Llama-3.1-8B"."""
    path = Path(path_or_id).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{path_or_id} is a file: name the model's folder")
    looks_local = isinstance(path_or_id, Path) or str(path_or_id).startswith((".", "/", "~"))
    if looks_local or len(path.parts) > 2:
        raise UserError(f"{path_or_id} is not there: name a model folder, or a hub id such as org/name")
    return None


def read_config_file(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json; raises UserError where it is none, and as `check_counts`."""
    path = folder / CONFIG
    if not path.is_file():
        if (folder / "adapter_config.json").is_file():
            raise UserError(f"{folder} is a LoRA adapter: merge it into its base model first")
        raise UserError(f"{folder} has no {CONFIG}: name a Hugging Face model folder")
    if path.stat().st_size > LARGEST_FILE:
        raise UserError(f"{path} is {path.stat().st_size:,} bytes long: name a Hugging Face model folder")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        check_counts(found, str(path))
    except RecursionError:
        raise UserError(f"{path} is nested too deeply: copy or download it again") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}): copy or download it again") from None
    if not isinstance(found, dict) or not isinstance(found.get("model_type"), str):
        raise UserError(f"{path} has no model_type: name a Hugging Face model folder")
    return found


def check_counts(value: Any, where: str, key: str = "") -> None:
    """Raises UserError for numbers that would keep transformers building for hours, wherever they stand."""
    if isinstance(value, dict):
        for name, part in value.items():
            check_counts(part, where, str(name))
    elif isinstance(value, list):
        for part in value:
            check_counts(part, where, key)
    elif isinstance(value, (int, float)):
        most = MOST_LAYERS if COUNTS.fullmatch(key) else MOST_LABELS if key == "num_labels" else 2**63
        if abs(value) > most and (most < 2**63 or isinstance(value, int)):
            raise UserError(f"{where}: {key} is {value!r:.30}, and at most {most} are read: correct it")


def check_no_adapter(folder: Path) -> None:
    """Raises UserError for an adapter beside a whole model: transformers would put it on without a word."""
    if (folder / CONFIG).is_file() and (folder / "adapter_config.json").is_file():
        raise UserError(
            f"{folder} holds a whole model and an adapter for it: merge the adapter (peft's "
            "merge_and_unload) and save that, or move adapter_config.json away to use the model without it"
        )
