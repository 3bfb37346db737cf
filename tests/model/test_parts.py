"""The parts of a layer, family by family."""

import pytest
import torch
from tiny import FAMILIES, tiny_batch, tiny_model

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers
from depthprune.model.parts import layer_parts

PRE_NORM = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "phi3",
    "opt",
    "gpt2",
    "bloom",
    "stablelm",
    "starcoder2",
    "granite",
    "smollm3",
)
PARALLEL = ("phi", "gpt_neox", "falcon", "cohere2")
SANDWICH = ("gemma2", "gemma3_text", "glm4")
POST_NORM = ("olmo2", "olmo3", "exaone4")
REFUSED = ("mixtral", "qwen3_next", "gpt_oss")


def parts_of(family: str, i: int = 0):
    model = tiny_model(family)
    calls = []
    layer = decoder_layers(model)[i]
    handle = layer.register_forward_pre_hook(lambda _, a, k: calls.append((a, k)), with_kwargs=True)
    with torch.no_grad():
        model(**tiny_batch(), use_cache=False)
    handle.remove()
    return layer, layer_parts(layer, calls[0])


@pytest.mark.parametrize("family", [*PRE_NORM, *PARALLEL, *SANDWICH, *POST_NORM])
def test_norms_lie_where_the_family_has_them(family):
    _, parts = parts_of(family)
    assert parts.parallel == (family in PARALLEL)
    assert (parts.attention.before is None) == (family in POST_NORM)
    assert (parts.mlp.before is None) == (family in POST_NORM)
    assert (parts.attention.after is not None) == (family in (*SANDWICH, *POST_NORM))
    assert (parts.mlp.after is not None) == (family in (*SANDWICH, *POST_NORM))


def test_a_llama_layer():
    _, parts = parts_of("llama")
    assert parts.attention.reads == ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    assert parts.attention.before == "input_layernorm"
    assert parts.mlp.before == "post_attention_layernorm"
    assert parts.mlp.reads == ("mlp.gate_proj", "mlp.up_proj")
    assert (parts.attention.writes, parts.mlp.writes) == ("self_attn.o_proj", "mlp.down_proj")


@pytest.mark.parametrize("family", REFUSED)
def test_what_is_made_of_other_things_is_refused(family):
    with pytest.raises(UserError, match=r"mixture|attention"):
        parts_of(family)


def test_every_family_is_sorted():
    known = {*PRE_NORM, *PARALLEL, *SANDWICH, *POST_NORM, *REFUSED}
    assert FAMILIES.keys() - known == {"qwen3_moe", "llama4_text", "deepseek_v3"}
