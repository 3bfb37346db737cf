"""Whether a checkpoint's weights are quantised: then they are codes, which only their quantiser can write."""

from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from depthprune.errors import UserError
from depthprune.model.config_file import local_folder
from depthprune.model.depth_config import text_config

# Of config.json; the last two are llm-compressor's older and MLX's name.
CONFIG_KEYS = ("quantization_config", "compression_config", "quantization")
# Beside config.json: ModelOpt, AutoGPTQ, AutoAWQ, AutoRound.
SIDE_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json")

SIZES = (
    "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
    "vocab_size",
)  # fmt: skip


def quantisation(config: PretrainedConfig, path_or_id: str | Path) -> str | None:
    """How the checkpoint is quantised, in its own words; None where it is not."""
    for part in (config, text_config(config)):
        for key in CONFIG_KEYS:
            if found := getattr(part, key, None):
                return _method(found)
    folder = local_folder(path_or_id)
    beside = [name for name in SIDE_FILES if folder is not None and (folder / name).is_file()]
    return beside[0] if beside else None


def check_not_quantised(config: PretrainedConfig, path_or_id: str | Path, why: str) -> None:
    """Raises UserError for a quantised checkpoint, where `why` needs its weights as numbers."""
    if (method := quantisation(config, path_or_id)) is not None:
        raise UserError(
            f"{path_or_id} is quantised ({method}), and {why}: start from the bf16 or fp32 checkpoint that "
            "it was made of (where this one is to be scored, name that one with --weights); `depthprune "
            "prune` takes layers out of a quantised one's files"
        )


def check_same_model(copy: PretrainedConfig, full: PretrainedConfig, copy_path: str, full_path: str) -> None:
    """Raises UserError unless both configs are of one model, by its type, depth and sizes."""
    for name in ("model_type", *SIZES):
        one, other = (getattr(text_config(config), name, None) for config in (copy, full))
        if one != other:
            raise UserError(
                f"{copy_path} has {name} {one!s:.100} and {full_path} has {other!s:.100}: --weights takes "
                "the checkpoint that the quantised --model was made of"
            )


def _method(found: Any) -> str:
    stated = found if isinstance(found, dict) else vars(found)
    method = stated.get("quant_method")
    return f"{getattr(method, 'value', method) or 'mlx' if 'group_size' in stated else method or 'unnamed'}"
