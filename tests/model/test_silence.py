"""Zeros at the end of an attention or an MLP: it adds nothing, in memory and saved."""

import pytest
import torch
from test_sublayers import ENDS
from test_sublayers import silence as without_end
from test_surgery import logits
from tiny import tiny_config, tiny_model

from depthprune.model.anatomy import decoder_layers
from depthprune.model.silence import silence, silent, silent_parameters
from depthprune.model.skeleton import skeleton
from depthprune.model.sublayers import layer_sides
from depthprune.model.verify import save_verified

FAMILIES = (
    "llama",
    "gemma3_text",
    "olmo2",
    "opt",
    "gpt2",
    "bloom",
    "qwen3_moe",
    "deepseek_v3",
    "granite",
    "gpt_oss",
)


@pytest.mark.parametrize("family", FAMILIES)
def test_silence_is_leaving_the_sublayer_out(family, tmp_path):
    sides = layer_sides(skeleton(tiny_config(family)))
    expected, model = tiny_model(family), tiny_model(family)
    attention, mlp = ENDS.get(family, ("self_attn", "mlp"))
    without_end(decoder_layers(expected)[1], attention)
    without_end(decoder_layers(expected)[3], mlp)
    before = logits(model)
    with silent(model, [2, 7], sides):
        assert torch.equal(logits(model), logits(expected))
    assert torch.equal(logits(model), before)
    silence(model, {1: ("attention",), 3: ("mlp",)}, sides)
    assert torch.equal(logits(model), logits(expected))
    save_verified(model, None, tmp_path / "model")


def test_what_leaving_it_out_would_save():
    model = skeleton(tiny_config())
    sides = layer_sides(model)
    layer = model.model.layers[0]
    attention, mlp = (
        sum(p.numel() for m in modules for p in m.parameters())
        for modules in ((layer.self_attn, layer.input_layernorm), (layer.mlp, layer.post_attention_layernorm))
    )
    assert silent_parameters(model, {2: ("mlp",), 3: ("attention",)}, sides) == attention + mlp
