"""Tiny random models of every family, made in the tests."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

SMALL: dict[str, Any] = dict(
    vocab_size=128,
    hidden_size=32,
    intermediate_size=48,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
}


def tiny_config(family: str = "llama", layers: int = 6, **changes: Any):
    """The config of a tiny model of `family` (a transformers model type)."""
    return AutoConfig.for_model(
        family, **{**SMALL, "num_hidden_layers": layers, **FAMILIES[family], **changes}
    )


def tiny_model(family: str = "llama", layers: int = 6, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random fp32 model in eval mode; its weights depend on the seed alone and are far from degenerate."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(tiny_config(family, layers, **changes), dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                # Small initial weights make every layer nearly the identity, and a test that skips one blind.
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def tiny_batch(
    vocab_size: int = 128, batch_size: int = 2, length: int = 12, seed: int = 0
) -> dict[str, torch.Tensor]:
    """A batch padded on the right: the last row is two tokens shorter than the others."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocab_size, (batch_size, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}
