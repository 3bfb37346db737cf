"""Tiny random models of every family, made in the tests."""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

# Whatever of this a family's config has. Windows are shorter than the tests' sequences.
SMALL: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "sliding_window": 6,
    "attention_chunk_size": 6,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT_ATTENTION: dict[str, Any] = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "n_group": 1,
    "topk_group": 1,
}
LINEAR_ATTENTION: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 3},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 3},
    "gemma": {},
    "gemma2": {},
    "gemma3_text": {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2},
    "phi": {},
    "phi3": {},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt2": {},
    "gpt_neox": {},
    "falcon": {},
    "bloom": {},
    "olmo2": {},
    "olmo3": {},
    "mixtral": {},
    "qwen3_moe": {"mlp_only_layers": [1], "decoder_sparse_step": 2},
    "stablelm": {},
    "starcoder2": {},
    "granite": {"residual_multiplier": 0.5},
    "cohere2": {},
    "smollm3": {},
    "gpt_oss": {},
    "glm4": {},
    "exaone4": {},
    "llama4_text": {"interleave_moe_layer_step": 2, "intermediate_size_mlp": 48},
    "deepseek_v3": {**LATENT_ATTENTION, "first_k_dense_replace": 2},
    "qwen3_next": {
        **LINEAR_ATTENTION,
        "mlp_only_layers": [2],
        "layer_types": ["linear_attention", "full_attention"] * 3,
    },
}


def tiny_config(family: str = "llama", layers: int = 6, **changes: Any) -> PretrainedConfig:
    """The config of a tiny model of `family`, a transformers model type."""
    config_class = CONFIG_MAPPING[family]
    known = {*vars(config_class()), *config_class.attribute_map}
    small = {name: value for name, value in SMALL.items() if name in known}
    return config_class(**{**small, "num_hidden_layers": layers, **FAMILIES.get(family, {}), **changes})


def tiny_model(family: str = "llama", layers: int = 6, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random fp32 model in eval mode; its weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(family, layers, **changes), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                # As initialised, every layer is nearly the identity: a test would not see which one is gone.
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def tiny_batch(
    vocab_size: int = 128, batch_size: int = 2, length: int = 12, seed: int = 0
) -> dict[str, torch.Tensor]:
    """A batch padded on the right: the last row is two tokens shorter than the others."""
    ids = torch.randint(3, vocab_size, (batch_size, length), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(ids)
    mask[-1, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}
