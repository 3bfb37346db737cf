"""How many tokens a forward pass may take at once."""

import sys
from pathlib import Path

import torch
from torch import nn

from depthprune.model.anatomy import decoder_layers, linear_weights, unwrap
from depthprune.model.depth_config import text_config

# Of a forward pass, and of what is free, should that be less.
_BUDGET_BYTES = 2 * 2**30
_SHARE_OF_FREE = 0.5
# Experts that a token is taken to go through, where they are stacked.
_EXPERTS = 8


def affordable_tokens(model: nn.Module, length: int) -> int:
    """How many tokens, in sequences of `length`, a forward pass without the head has room for; at least 1."""
    free = int(_SHARE_OF_FREE * free_bytes(unwrap(model).device))
    return max(1, min(_BUDGET_BYTES, free) // token_bytes(model, length))


def token_bytes(model: nn.Module, length: int) -> int:
    """Bytes of a token's activations in the widest layer, all of its linears' outputs in float32.

    In eager attention the scores come to it, once as they are and once as float32.
    """
    outputs = [
        sum(
            max(weight.parameter.shape[-2:]) * min(weight.experts or 1, _EXPERTS)
            for weight in linear_weights(layer).values()
        )
        for layer in decoder_layers(model)
    ]
    config = text_config(unwrap(model).config)
    eager = config._attn_implementation == "eager"
    return 4 * max(outputs) + (8 * config.num_attention_heads * length if eager else 0)


def free_bytes(device: torch.device) -> int:
    """What is free on the device that the model lies on."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if sys.platform == "linux":
        meminfo = Path("/proc/meminfo").read_text()
        return int(meminfo.split("MemAvailable:")[1].split()[0]) * 1024
    return 2 * _BUDGET_BYTES  # there is no way to ask without another library
