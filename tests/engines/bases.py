"""Base models whose config.json is as on the hub, and what depthprune makes of them."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from runs import rows, write_jsonl
from tiny import tiny_model
from tiny_tokenizer import tiny_tokenizer
from transformers import PreTrainedModel

from depthprune import load_recipe, remove_layers, run, save_pruned
from depthprune.model.loading import load_model

LAB = Path(os.environ.get("DEPTHPRUNE_LAB", Path(__file__).parents[3] / "shared" / "lab"))
"""A trained 16-layer Llama and data; where it is not there, a random model and made-up rows serve."""
NEWEST = "transformers 5's spelling"
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
TWO_PAIRS = {"selection.ratio": None, "selection.num_removed": 2}
ONE_PERIOD = {"selection.method": "explicit", "selection.remove": [5, 6, 7, 8, 9, 10]}
SLIDING = (["sliding_attention"] * 5 + ["full_attention"]) * 2  # the period that llama.cpp has built in


@dataclass(frozen=True)
class Result:
    """A folder that depthprune wrote, and the model in memory (float32) that it should be in every engine."""

    folder: Path
    meant: PreTrainedModel


def hub_style(folder: Path, newest: bool = False, **changes: Any) -> Path:
    """Rewrites a folder's configs as transformers 4 has them, or with `newest` leaves transformers 5's."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    if not newest:
        for name in ("rope_parameters", "num_local_experts"):
            config.pop(name, None)
        config = {**config, "torch_dtype": config.pop("dtype"), "transformers_version": "4.51.0"}
        (folder / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}'
        )
    path.write_text(json.dumps(config, indent=2))
    return folder


def llama(folder: Path) -> Path:
    """A Llama with its tokenizer, trained where the lab is there."""
    if (LAB / "model").is_dir():
        return Path(shutil.copytree(LAB / "model", folder))
    return tiny("llama", folder, layers=16)


def tiny(family: str, folder: Path, **config: Any) -> Path:
    """A random model of a family, with a tokenizer of its own."""
    tokenizer = tiny_tokenizer(merges=(("t", "h"),))
    size = {"vocab_size": len(tokenizer), "hidden_size": 64, "head_dim": 16, "max_position_embeddings": 512}
    tiny_model(family, **{**size, **config}).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pruned(base: Path, layers: list[int], folder: Path) -> Result:
    """The base without `layers`, saved from memory."""
    save_pruned(remove_layers(load_model(base), layers), folder, base=base)
    meant = load_model(base, "float32")
    return Result(folder, remove_layers(meant, layers))  # type: ignore[arg-type]


def tuned(base: Path, folder: Path) -> Result:
    """What a short run makes of the base: three layers cut, a few steps of LoRA."""
    data = write_jsonl(base.parent / "rows.jsonl", rows(32))
    recipe = load_recipe("reverse", model=str(base), train=str(data), eval=(str(data),), **{
        "selection.ratio": 0.2, "training.max_steps": 4, "training.per_device_train_batch_size": 4,
        "training.gradient_accumulation_steps": 1, "training.learning_rate": 3e-3, "training.max_length": 64,
        "evaluation.limit": 2,
    })  # fmt: skip
    run(recipe, folder)
    return Result(folder, load_model(folder, "float32"))


def flattened(base: Path, folder: Path, **selection: Any) -> Result:
    """The base with some pairs of layers made one."""
    text = write_jsonl(base.parent / "text.jsonl", [{"text": row["prompt"] * 8} for row in rows(64)])
    recipe = load_recipe("flatten", model=str(base), calibration=str(text), **selection, **{
        "recovery.choose_by": "error",
        "calibration_samples.samples": 12, "calibration_samples.length": 24,
    })  # fmt: skip
    run(recipe, folder)
    return Result(folder, load_model(folder, "float32"))


def results(root: Path) -> dict[str, Result]:
    """Every result that the engines are asked for."""
    classic = hub_style(llama(root / "classic"), rope_theta=500000.0)
    scaled = hub_style(llama(root / "llama3"), rope_theta=500000.0, rope_scaling=LLAMA3)
    newest = hub_style(llama(root / "newest"), True, rope_parameters={"rope_theta": 500000.0, **LLAMA3})
    windows = {"layers": 12, "layer_types": SLIDING, "sliding_window": 8, "query_pre_attn_scalar": 16}
    gemma = hub_style(
        tiny("gemma3_text", root / "gemma3", **windows),
        rope_theta=1e6, rope_local_base_freq=10000.0, sliding_window_pattern=6,
    )  # fmt: skip
    moe = hub_style(
        tiny("qwen3_moe", root / "moe", mlp_only_layers=[], decoder_sparse_step=1, norm_topk_prob=True),
        rope_theta=500000.0, num_experts=4, max_window_layers=6,
    )  # fmt: skip
    return {
        "pruned": pruned(classic, [3, 4, 9], root / "out-pruned"),
        "tuned": tuned(classic, root / "out-tuned"),
        "flattened": flattened(classic, root / "out-flattened", **TWO_PAIRS),
        "llama3 pruned": pruned(scaled, [3, 4, 9], root / "out-llama3-pruned"),
        "llama3 tuned": tuned(scaled, root / "out-llama3-tuned"),
        NEWEST: pruned(newest, [3, 4, 9], root / "out-newest"),
        "Gemma 3, period kept": pruned(gemma, [5, 6, 7, 8, 9, 10], root / "out-gemma3"),
        "Gemma 3, flattened": flattened(gemma, root / "out-gemma3-flattened", **ONE_PERIOD),
        "Gemma 3, period broken": pruned(gemma, [0], root / "out-gemma3-broken"),
        "mixture of experts": pruned(moe, [1, 4], root / "out-moe"),
    }
