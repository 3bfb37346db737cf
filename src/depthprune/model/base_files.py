"""What a model folder holds beside weights and config.json: tokenizer, processor, licence, templates."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import snapshot_download

from depthprune.files import OWN, remove_empty
from depthprune.model.config_file import local_folder
from depthprune.model.loading import explained

WEIGHTS = (
    ".bin", ".ckpt", ".engine", ".ggml", ".gguf", ".h5", ".mlmodel", ".msgpack", ".npz", ".onnx",
    ".onnx_data", ".ot", ".pdparams", ".pt", ".pth", ".safetensors", ".tflite",
)  # fmt: skip
# Written anew, or by others about the whole model: the card of what is made of it is ours.
NOT_COPIED = ("README.md", "config.json")
# The same model for other engines, on the hub, where its weights are not seen without downloading them.
OTHER_FORMATS = ("coreml", "gguf", "metal", "onnx", "openvino", "original")
CACHES = ("__pycache__",)
PREFERRED = "tool_use"
"""The named chat template that transformers takes, where there is one, for chats with tools."""


def base_folder(path_or_id: str | Path) -> Path:
    """The model's folder; of a hub id all but the weights is downloaded, if it is not there yet."""
    if (folder := local_folder(path_or_id)) is not None:
        return folder
    left_out = [*(f"*{suffix}" for suffix in WEIGHTS), *(f"{name}/*" for name in OTHER_FORMATS)]
    with explained(f"{path_or_id}: its files cannot be downloaded"):
        return Path(snapshot_download(str(path_or_id), ignore_patterns=left_out))


def copy_other_files(base: Path, output: Path) -> None:
    """Copies all files of the base folder and its sub-folders but weights, their index, config.json and card.

    Left out are also hidden files and folders, caches, a run's `depthprune/`, and each sub-folder that holds
    weights: it is a model of its own.
    """
    for file in other_files(base, output):
        target = output / file.relative_to(base.resolve())
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def other_files(base: Path, output: Path | None = None) -> Iterator[Path]:
    """The files that go with every model made from the one in `base`; none of an `output` inside it."""
    base = base.resolve()
    for here, folders, names in os.walk(base):
        path = Path(here)
        folders[:] = sorted(name for name in folders if _belongs(path / name, output))
        for name in sorted(names):
            if _is_other(path / name) and not (path == base and name in NOT_COPIED):
                yield path / name


def _belongs(folder: Path, output: Path | None) -> bool:
    if folder.name.startswith(".") or folder.name in (OWN, *CACHES, *OTHER_FORMATS):
        return False
    if (folder / OWN).is_dir() or (output is not None and output.resolve().is_relative_to(folder)):
        return False
    return not any(_is_weights(file) for file in folder.rglob("*"))


def _is_weights(file: Path) -> bool:
    return file.suffix.lower() in WEIGHTS


def _is_other(file: Path) -> bool:
    hidden = file.name.startswith(".")
    index = file.name.endswith(".index.json")
    return file.is_file() and not hidden and not index and not _is_weights(file)


def set_chat_template(folder: Path, template: str) -> None:
    """Makes `template` the one that the tokenizer in `folder` uses, wherever its files keep theirs.

    The one named `tool_use` goes, which transformers would prefer for chats with tools; others that are named
    stay. Where there is none yet it becomes `chat_template.jinja`.
    """
    settings = folder / "tokenizer_config.json"
    found = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    stated = found.get("chat_template")
    if isinstance(stated, list):
        named = [entry for entry in stated if entry.get("name") not in ("default", PREFERRED)]
        found["chat_template"] = [{"name": "default", "template": template}, *named]
    elif stated is not None:
        found["chat_template"] = template
    if stated is not None:
        settings.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    processor = folder / "chat_template.json"
    if processor.is_file():
        content = json.dumps({"chat_template": template}, indent=2, ensure_ascii=False)
        processor.write_text(content + "\n", encoding="utf-8")
    beside, named_beside = folder / "chat_template.jinja", folder / "additional_chat_templates"
    if stated is None or beside.is_file() or named_beside.is_dir():
        beside.write_text(template, encoding="utf-8")
    (named_beside / f"{PREFERRED}.jinja").unlink(missing_ok=True)
    remove_empty([named_beside])
