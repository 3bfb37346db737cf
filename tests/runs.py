"""A tiny model folder, datasets and recipes for whole runs."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from tiny_tokenizer import tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from depthprune.recipe.load import load_recipe
from depthprune.recipe.recipe import Recipe

LAYERS = 6
COLOURS = (" red", " green", " blue")


def model_folder(folder: Path, **tokenizer: Any) -> Path:
    """A six-layer Llama with a byte-level tokenizer."""
    vocabulary = tiny_tokenizer(**tokenizer)
    llama(vocabulary).save_pretrained(folder)
    vocabulary.save_pretrained(folder)
    return folder


def llama(vocabulary: Any, **changes: Any) -> LlamaForCausalLM:
    """The random six-layer Llama of a tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=vocabulary.bos_token_id,
        eos_token_id=vocabulary.eos_token_id,
        pad_token_id=vocabulary.pad_token_id,
        **changes,
    )
    return LlamaForCausalLM(config)


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Prompts whose first letter decides the colour."""
    draw = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    found = []
    for _ in range(count):
        word = "".join(draw.choices(letters, k=draw.randint(3, 9)))
        colour = COLOURS[letters.index(word[0]) % len(COLOURS)]
        found.append({"prompt": f"{word} is", "completion": colour, "choices": list(COLOURS)})
    return found


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def recipe(tmp_path: Path, name: str = "gradpruner", **overrides: Any) -> Recipe:
    """A recipe over the tiny model and 64 rows, small enough for a test."""
    model = tmp_path / "model"
    if not model.exists():
        model_folder(model)
        write_jsonl(tmp_path / "train.jsonl", rows(64))
        write_jsonl(tmp_path / "test.jsonl", rows(16, seed=1))
    settings: dict[str, Any] = {
        "model": str(model),
        "train": str(tmp_path / "train.jsonl"),
        "eval": (str(tmp_path / "test.jsonl"),),
        "training.max_steps": 6,
        "training.per_device_train_batch_size": 4,
        "training.gradient_accumulation_steps": 1,
        "training.learning_rate": 1e-3,
    }
    if overrides.get("training.method") == "none":
        settings = {key: value for key, value in settings.items() if not key.startswith("training.")}
    if name == "gradpruner":
        settings["importance.steps"] = 4
    return load_recipe(name, **{**settings, **overrides})
