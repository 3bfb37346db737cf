"""NVIDIA's Nemotron-NAS (DeciLM), a form with layers without attention: vLLM, mlx-lm, llama.cpp read it."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PretrainedConfig

from depthprune.errors import UserError, disk_faults_explained
from depthprune.model.base_files import copy_other_files
from depthprune.model.config_file import local_folder
from depthprune.model.loading import load_config
from depthprune.model.quantised import check_not_quantised
from depthprune.model.saving import write_config
from depthprune.model.shards import INDEX, Shard, read_shards
from depthprune.model.staging import check_vacant, staged

FAMILIES = ("llama", "mistral")
WIDTH = 256
"""Engines round the width of an MLP up to a multiple of this."""
ATTENTION, MLP = ("input_layernorm.", "self_attn."), "mlp."


def export(model_dir: str | Path, output: str | Path) -> list[str]:
    """Writes the checkpoint in `model_dir`, without what is zeros in it, to the new folder `output`.

    An attention whose `o_proj` is zero goes with its norm, but that of layer 0, which engines want; an MLP
    whose `down_proj` is zero becomes one of 256 zeros, since llama.cpp wants one. Returns what became of
    which layer, in words. Raises UserError where the form cannot say the model, or nothing in it is zeros.
    """
    folder, output = local_folder(model_dir), Path(output).resolve()
    if folder is None:
        raise UserError(f"{model_dir} is not a folder: export a model folder")
    check_vacant(output)
    config = load_config(folder)
    check_sayable(config)
    check_not_quantised(config, str(folder), "export looks for zeros in its weights")
    shards = read_shards(folder)
    attentions, mlps = _silent(shards, "self_attn.o_proj."), _silent(shards, "mlp.down_proj.")
    attentions.discard(0)
    if not attentions and not mlps:
        raise UserError(
            f"{folder}: no attention behind layer 0 and no MLP is zeros, so there is nothing to leave out: "
            "every engine reads it as it is; make one with the recipe blockpruner or finercut"
        )
    with disk_faults_explained(), staged(output) as written:
        copy_other_files(folder, written)
        _write_weights(shards, attentions, mlps, config.hidden_size, written)
        stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        write_config(written, {**stated, **config_fields(config, attentions, mlps)})
    return [f"attention {i} left out" for i in sorted(attentions)] + [
        f"MLP {i} {WIDTH} zeros wide" for i in sorted(mlps)
    ]


def check_sayable(config: PretrainedConfig) -> None:
    """Raises `UserError` with the reason where the form cannot say a model of this config."""
    kind = config.model_type
    reason = None
    if kind not in FAMILIES:
        reason = f"it says models of the shape of {' and '.join(FAMILIES)}"
    elif getattr(config, "sliding_window", None) is not None:
        reason = "it has no sliding window"
    elif config.hidden_size != config.num_attention_heads * _head_dim(config):
        reason = "its heads are hidden_size / num_attention_heads wide"
    elif config.hidden_act != "silu":
        reason = f"its engines take silu, and this model has {config.hidden_act}"
    elif config.intermediate_size % WIDTH:
        reason = f"its MLPs are multiples of {WIDTH} wide, and these are {config.intermediate_size}"
    if reason is not None:
        raise UserError(f"{kind} cannot be written as nemotron-nas: {reason}")


def _head_dim(config: PretrainedConfig) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def config_fields(config: PretrainedConfig, attentions: set[int], mlps: set[int]) -> dict[str, Any]:
    """What config.json has otherwise; the rotary fields in the spelling that the engines read."""
    group = config.num_attention_heads // config.num_key_value_heads
    blocks = [
        {
            "attention": {
                "no_op": i in attentions,
                "replace_with_linear": False,
                "n_heads_in_group": None if i in attentions else group,
            },
            "ffn": {
                "no_op": False,
                "replace_with_linear": False,
                "ffn_mult": ffn_mult(WIDTH if i in mlps else config.intermediate_size, config.hidden_size),
            },
        }
        for i in range(config.num_hidden_layers)
    ]
    rope = dict(config.rope_parameters)
    theta = rope.pop("rope_theta")
    return {
        "architectures": ["DeciLMForCausalLM"],
        "model_type": "nemotron-nas",
        "block_configs": blocks,
        "intermediate_size": None,
        "num_key_value_heads": None,
        "rope_theta": theta,
        "rope_scaling": None if rope.get("rope_type", "default") == "default" else rope,
    }


def ffn_mult(width: int, hidden: int) -> float:
    """The multiplier of which engines make `width`: int(2·m·hidden / 3), rounded up to a multiple of 256.

    Half a channel less, so that rounding cannot lead to the next multiple; engines keep six digits.
    """
    return round(3 * (width - 0.5 * WIDTH) / (2 * hidden), 6)


def _silent(shards: list[Shard], end: str) -> set[int]:
    """The layers in which every tensor of this projection is zero."""
    found: dict[int, bool] = {}
    for shard in shards:
        with safe_open(shard.path, framework="pt") as tensors:
            for name in shard.tensors:
                layer, inside = _place(name)
                if layer is not None and inside.startswith(end):
                    found[layer] = found.get(layer, True) and not tensors.get_tensor(name).any()
    return {layer for layer, silent in found.items() if silent}


def _place(name: str) -> tuple[int | None, str]:
    """(layer, the name inside it) of model.layers.3.mlp.up_proj.weight; (None, name) elsewhere."""
    before, found, rest = name.partition("layers.")
    if not found or before not in ("", "model."):
        return None, name
    number, _, inside = rest.partition(".")
    return int(number), inside


def _write_weights(
    shards: list[Shard], attentions: set[int], mlps: set[int], hidden: int, output: Path
) -> None:
    """Shard by shard, one in memory at a time."""
    weight_map: dict[str, str] = {}
    total = 0
    for shard in shards:
        kept: dict[str, Tensor] = {}
        with safe_open(shard.path, framework="pt") as tensors:
            for name in shard.tensors:
                layer, inside = _place(name)
                if layer not in attentions or not inside.startswith(ATTENTION):
                    tensor = tensors.get_tensor(name)
                    narrow = layer in mlps and inside.startswith(MLP)
                    kept[name] = _narrow(tensor, hidden, inside) if narrow else tensor
        save_file(kept, output / shard.path.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(kept, shard.path.name)
        total += sum(tensor.nbytes for tensor in kept.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        (output / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _narrow(tensor: Tensor, hidden: int, inside: str) -> Tensor:
    """Zeros of the shape that the tensor has in an MLP of 256 channels."""
    down = inside.startswith("mlp.down_proj.")
    shape = [hidden if down else WIDTH] + ([WIDTH if down else hidden] if tensor.ndim > 1 else [])
    return torch.zeros(shape, dtype=tensor.dtype)
