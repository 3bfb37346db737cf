"""Hashes of what a run reads, by which it knows its finished stages again."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from depthprune.pipeline.inputs import Inputs

_READ = (".json", ".jinja", ".model", ".txt", ".py", ".tiktoken", ".spm", ".bpe", ".vocab")
"""Of a model folder, beside the weights: config, tokenizer, chat template, its own code."""


def fingerprint(source: str) -> str:
    """A hash of a dataset's contents, with its `:split` if it names one; a hub id stands for itself."""
    path = Path(source)
    if not path.exists():
        folder, colon, split = source.rpartition(":")
        return f"{fingerprint(folder)}:{split}" if colon and Path(folder).exists() else source
    files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
    return _hash(path, files)


def model_fingerprint(source: str) -> str:
    """A hash of what a run reads of a model: its weights' sizes and times, the contents of its small files.

    Nothing else counts that lies in the folder: not its card, and not a run whose output it holds.
    """
    path = Path(source).expanduser()
    if not path.is_dir():
        return source
    templates = (path / "additional_chat_templates").glob("*.jinja")
    named = [file for file in path.iterdir() if file.suffix in (".safetensors", *_READ)]
    return _hash(path, sorted(file for file in (*named, *templates) if file.is_file()))


def provenance(inputs: Inputs) -> dict[str, Any]:
    """What a run read, without a path: a fingerprint of what lies here, a revision of a model on the hub."""
    recipe, revision = inputs.recipe, getattr(inputs.config, "_commit_hash", None)
    model = str(recipe.model)
    found: dict[str, Any] = {"model": {"revision": revision} if revision else _seen(model, model_fingerprint)}
    if recipe.weights is not None:
        found["weights"] = _seen(recipe.weights, model_fingerprint)
    for key in ("train", "calibration", "chat_template"):
        if (source := getattr(recipe, key)) is not None:
            found[key] = _seen(source, fingerprint)
    return {**found, "eval": [_seen(source, fingerprint) for source in recipe.eval]}


def _seen(source: str, hashed: Callable[[str], str]) -> dict[str, str]:
    found = hashed(source)
    return {} if found == source else {"fingerprint": found}


def _hash(folder: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(folder)).encode())
        if file.suffix == ".safetensors":
            stat = file.stat()
            digest.update(f"{stat.st_size} {stat.st_mtime_ns}".encode())
        else:
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
