"""Tiny random models of every type in transformers' mappings, from their config classes alone."""

import json
from pathlib import Path
from typing import Any

import tiny
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

CAUSAL = list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
MULTIMODAL = list(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
VISION = [kind for kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES if kind not in CAUSAL]

LAYERS = 6
# Whatever of this a type's config has.
SMALL: dict[str, Any] = {
    **tiny.SMALL,
    "num_experts_per_token": 2,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "num_expert_group": 1,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "index_topk": 64,
    "first_k_dense_replace": 2,
    "num_dense_layers": 2,
}
# Of a part that is no language model.
SMALL_TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "depth": 2,
    "num_heads": 4,
    "embed_dim": 32,
    "out_hidden_size": 32,
    "text_hidden_size": 32,
    "deepstack_visual_indexes": [0, 1],
    "deepstack_visual_layers": [0, 1],
    "fullatt_block_indexes": [0],
}
# Where keys and values come from one latent vector.
SMALL_LATENT: dict[str, Any] = {"num_key_value_heads": 4, "head_dim": 4, "qk_head_dim": 12}
ALTERNATING = {"layer_types": ["linear_attention", "full_attention"] * 3}
MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
MAMBA_HEADS = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1}
# What one type needs beside or in place of that.
ONE_TYPE: dict[str, dict[str, Any]] = {
    "bamba": {**MAMBA_HEADS, "attn_layer_indices": [1, 3, 4]},
    "granitemoehybrid": {**MAMBA_HEADS, "layer_types": ["mamba", "attention"] * 3},
    "codegen": {"rotary_dim": 4},
    "gptj": {"rotary_dim": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 3]], "window_size": 6},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
    "youtu": {"pad_token_id": None},  # its embedding is zeroed when it is loaded, whatever is stored
    "xlstm": {"hidden_size": 128},  # keys are rounded up to 64
    "zaya": {"num_experts_per_tok": 1},
    "xlnet": {"d_head": 8},
    "plbart": {"encoder_attention_heads": 4, "decoder_attention_heads": 4},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 3},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 3},
    "qwen2_moe": {
        "use_sliding_window": True,
        "max_window_layers": 3,
        "mlp_only_layers": [1],
        "decoder_sparse_step": 2,
    },
    "qwen3_moe": {"mlp_only_layers": [1], "decoder_sparse_step": 2},
    "qwen3_next": {**ALTERNATING, "mlp_only_layers": [2]},
    "qwen3_5_text": ALTERNATING,
    "qwen3_5_moe_text": ALTERNATING,
    "olmo_hybrid": ALTERNATING,
    "llama4_text": {"interleave_moe_layer_step": 2, "intermediate_size_mlp": 48},
    "falcon_h1": {
        "mamba_d_ssm": 64,
        "mamba_d_head": 8,
        "mamba_n_heads": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
    },
    "minimax": {"block_size": 8},
    "granite": {"residual_multiplier": 0.5},
    "dbrx": {
        "d_model": 32,
        "n_heads": 4,
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 16, "moe_top_k": 2, "moe_num_experts": 4, "hidden_size": 32},
    },
    "dory": {
        "n_input_layers": 2,
        "n_recurrent_layers": 2,
        "n_output_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
    },
    "inkling2_text": {
        "n_layers_per_attn_res_block": 2,
        "unpadded_vocab_size": 128,
        "layer_types": ["hybrid_sliding", "hybrid"] * 3,
    },
    "inkling2_loop_text": {
        "n_layers_per_attn_res_block": 2,
        "unpadded_vocab_size": 128,
        "layer_types": ["hybrid_sliding", "hybrid"] * 3,
        "loop_layer_index_start": 2,
        "loop_layer_index_end": 4,
        "loop_gate_rank": 4,
    },
    **dict.fromkeys(
        (
            "qwen2_vl_text",
            "qwen2_5_vl_text",
            "qwen2_5_omni_text",
            "paddleocr_vl_text",
            "glm4v_text",
            "glm46v_text",
            "glm_ocr_text",
            "glmga_text",
            "hunyuan_vl_text",
            "cosmos3_edge_text",
        ),
        MROPE,
    ),
    "hy_v4_vl_text": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 0]}
    },
    "glm4v_moe_text": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 0.5,
            "mrope_section": [1, 1, 0],
        }
    },
    "ernie4_5_vl_moe_text": {"moe_intermediate_size": [16, 16], "moe_num_experts": 4, "moe_k": 2},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16},
    "mistral_large4_text": {
        "kv_source_layers": [0, 1, 1, 3, 4, 4],
        "indexer_types": ["full", "full", "shared", "full", "full", "full"],
    },
    "nemotron_h": {
        "layer_types": [
            "linear_attention",
            "full_attention",
            "moe",
            "linear_attention",
            "mlp",
            "full_attention",
        ],
        "mamba_num_heads": 8,
        "mamba_head_dim": 8,
        "ssm_state_size": 8,
        "n_groups": 2,
        "chunk_size": 8,
        "moe_shared_expert_intermediate_size": 16,
    },
    "kimi_linear": {
        "linear_head_dim": 8,
        "linear_num_heads": 4,
        "layer_types": ["linear_attention", "full_attention"] * 3,
    },
    "blt": {
        "encoder_hash_byte_group_vocab": 64,
        **{
            part: {
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "num_hidden_layers": layers,
                "vocab_size": 128,
            }
            for part, layers in (
                ("patcher_config", 2),
                ("encoder_config", 1),
                ("decoder_config", 3),
                ("global_config", 6),
            )
        },
    },
    "dots3_note_vision_encoder": {
        "mlp_layer_types": ["dense", "dense"],
        "adapter_in_dim": 32,
        "adapter_out_dim": 32,
    },
    "dots3_note_audio_encoder": {
        "adapter_input_size": 32,
        "adapter_out_dim": 32,
        "downsample_hidden_size": 8,
    },
    "wavtokenizer": {"codebook_dim": 32},
    "radio": {"video_temporal_patch_size": 2},
    "molmo2_adapter": {"vision_feature_layer": [1, 0]},
    "qwen2_5_omni_thinker": {"vision_start_token_id": 7},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 7},
    "granite4_vision": {"deepstack_layer_map": [[1, 0]], "spatial_target_layers": [1]},
    "chameleon": {"vocabulary_map": {"<image>": 5}},
    "mistral4": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "partial_rotary_factor": 1.0,
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 64,
        }
    },
    "longcat_flash": {"num_layers": 6, "num_hidden_layers": 12},
    "mllama_text_model": {"cross_attention_layers": [2]},
    "dots1": {"n_shared_experts": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 3},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
            for kind in ("full_attention", "sliding_attention")
        },
        "layer_types": ["sliding_attention", "full_attention"] * 3,
    },
    "gemma3n_text": {
        "vocab_size_per_layer_input": 128,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
    },
    "gemma4_text": {
        "vocab_size_per_layer_input": 128,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "global_head_dim": 8,
    },
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"] * 3,
        "hc_lowrank": 8,
        "ple_layer_ids": [1, 5],
        "ngram_vocab_size_base": 100,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 2,
        "ple_embed_dim": 32,
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
    },
    "dots3_note_text": {
        "num_key_value_heads": 4,
        "head_dim": 12,
        "swa_head_dim": 12,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
        "swa_kv_lora_rank": 16,
        "swa_q_lora_rank": 16,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "shared_experts_intermediate_size": 16,
    },
    "emu3": {
        "vocabulary_map": {"<image>": 5, "<|extra_200|>": 6},
        "vq_config": {
            "codebook_size": 16,
            "embed_dim": 8,
            "base_channels": 32,
            "channel_multiplier": [1, 1],
            "num_res_blocks": 1,
            "latent_channels": 8,
            "hidden_size": 32,
        },
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * 3,
        "mamba_headdim": 8,
        "n_mamba_heads": 8,
        "mamba_d_state": 8,
        "chunk_size": 8,
        "adapter_rank": 4,
        "num_key_value_heads": 4,
    },
    "gemma4_assistant": {
        "backbone_hidden_size": 32,
        "text_config": {
            "model_type": "gemma4_text",
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_hidden_layers": 6,
            "num_kv_shared_layers": 6,
            "hidden_size": 32,
        },
    },
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid"] * 3,
        "num_key_value_heads": 4,
        "mamba_d_state": 8,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"] * 3},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
}


# Multimodal types that do not run whole, without or with images: of these the language model is run.
TEXT_ALONE = ("llama4",)
LARGEST = 20_000_000
"""Parameters of what still is a small model: some types have tables that no field makes smaller."""


class NotBuildable(Exception):
    """No small model of a type can be made here."""


def default_config(kind: str) -> PretrainedConfig:
    """A config of this type: that of the small model, or else that of the published one."""
    try:
        return small_config(kind)
    except Exception:  # whatever validators raise
        return CONFIG_MAPPING[kind]()


def small_config(kind: str, layers: int = LAYERS) -> PretrainedConfig:
    """The config of a tiny model of a transformers model type."""
    config_class = CONFIG_MAPPING[kind]
    return config_class(**{**_shrunk(config_class, layers), **ONE_TYPE.get(kind, {})})


def _shrunk(config_class: type[PretrainedConfig], layers: int) -> dict[str, Any]:
    """The small values of the fields that a config has, down into its parts."""
    default = _default(config_class)
    fields = _small_fields(default, SMALL)
    if "kv_lora_rank" in fields:
        fields |= _small_fields(default, SMALL_LATENT)
    fields["num_hidden_layers"] = layers
    text = default.get_text_config(decoder=True)
    for name in config_class.sub_configs:
        part = getattr(default, name, None)
        if not isinstance(part, PretrainedConfig) or not part.model_type:
            continue
        if part is text:
            del fields["num_hidden_layers"]
        small = _shrunk(type(part), layers) if part is text else _small_fields(part, SMALL_TOWER)
        fields[name] = {**small, **ONE_TYPE.get(part.model_type, {}), "model_type": part.model_type}
    return fields


def _default(config_class: type[PretrainedConfig]) -> PretrainedConfig:
    try:
        return config_class()
    except Exception:  # some types have no valid default
        return config_class(**ONE_TYPE[config_class.model_type])


def _small_fields(config: PretrainedConfig, small: dict[str, Any]) -> dict[str, Any]:
    known = {*vars(config), *config.attribute_map}
    return {name: value for name, value in small.items() if name in known}


def auto_class(folder: Path) -> Any:
    """What a checkpoint is loaded with, whole."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    return (
        AutoModelForImageTextToText if kind in MULTIMODAL and kind not in TEXT_ALONE else AutoModelForCausalLM
    )


def small_model(kind: str, seed: int = 0) -> PreTrainedModel:
    """A random fp32 model in eval mode, whole; raises NotBuildable with the reason."""
    auto = AutoModelForImageTextToText if kind in MULTIMODAL else AutoModelForCausalLM
    try:
        config = small_config(kind)
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in auto.from_config(config).parameters())
        if size > LARGEST:
            raise NotBuildable(f"{size:,} parameters at the least")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return shaken(auto.from_config(config, dtype=torch.float32)).eval()
    except NotBuildable:
        raise
    except Exception as error:  # whatever validators and constructors raise
        raise NotBuildable(" ".join(f"{type(error).__name__}: {error}".split())[:200]) from None


@torch.no_grad()
def shaken(model: PreTrainedModel) -> PreTrainedModel:
    """With noise on every weight: as initialised, each layer is nearly the identity: none would be missed."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    return model
