"""Writing a model as its base is written: the same files, the same config.json, with only what changed."""

import json
from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedModel

from depthprune.model.base_config import edited_config, for_engines, mended, set_dtype
from depthprune.model.base_files import base_folder, copy_other_files, set_chat_template
from depthprune.model.loading import load_config
from depthprune.model.shards import read_shards


@dataclass(frozen=True)
class Base:
    """The model that another was made from: where it lies, and its config as transformers reads it."""

    folder: Path
    config: PretrainedConfig
    chat_template: str | None = None
    """What the model was trained with in place of the base's own."""


def read_base(
    path_or_id: str | Path, trust_remote_code: bool = False, chat_template: str | None = None
) -> Base:
    """The base in a folder or on the hub; raises UserError where there is none."""
    folder = base_folder(path_or_id)
    return Base(folder, load_config(folder, trust_remote_code), chat_template)


def write_as_base(model: PreTrainedModel, base: Base, saved: Path) -> None:
    """Puts the base's files in the place of those that `save_pretrained` wrote beside the weights."""
    for name in ("config.json", "generation_config.json"):
        (saved / name).unlink(missing_ok=True)
    copy_other_files(base.folder, saved)
    if base.chat_template is not None:
        set_chat_template(saved, base.chat_template)
    stated = json.loads((base.folder / "config.json").read_text(encoding="utf-8"))
    written = edited_config(stated, base.config, model.config)
    if stated.get("model_type") != written.get("model_type") or "architectures" not in written:
        written["architectures"] = [type(model).__name__]
    set_dtype(written, model.dtype)
    write_config(saved, mended(written, model, stored_names(saved)))


def write_for_engines(model: PreTrainedModel, saved: Path) -> None:
    """Adds to the config.json that `save_pretrained` wrote what other engines look for in it."""
    written = json.loads((saved / "config.json").read_text(encoding="utf-8"))
    write_config(saved, for_engines(mended(written, model, stored_names(saved)), model.config))


def stored_names(folder: Path) -> set[str]:
    """The names of all tensors in a folder's weight files."""
    return {name for shard in read_shards(folder) for name in shard.tensors}


def write_config(folder: Path, content: dict) -> None:
    """Writes config.json, in the order and with the letters that its content has."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
