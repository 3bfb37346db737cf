"""A model cast in memory is the one that loading in that dtype gives."""

import pytest
import torch
from tiny import FAMILIES, tiny_batch, tiny_model
from transformers import AutoModelForCausalLM

from depthprune.model.casting import cast_weights

# Saved buffers; buffers that no file holds and that loading gives in the model's own dtype.
UNUSUAL = ["apertus", "falcon_h1", "openai-gpt", "recurrent_gemma", "gemma4_unified_text"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", [*FAMILIES, *UNUSUAL])
@torch.inference_mode()
def test_casting_gives_what_loading_gives(family, dtype, tmp_path):
    tiny_model(family).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    cast = cast_weights(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32), dtype)
    wanted, found = loaded.state_dict(), cast.state_dict()
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        name: tensor.dtype for name, tensor in wanted.items()
    }
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert cast.dtype == dtype
    for model in (cast, loaded):  # from a file they may be aligned otherwise, which reorders sums
        for parameter in model.parameters():
            parameter.data = parameter.data.clone()
    batch = tiny_batch()
    assert torch.equal(cast(**batch).logits, loaded(**batch).logits)


def test_rotary_frequencies_stay_as_they_are():
    model = tiny_model("gemma3_text")
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert any(name.endswith("inv_freq") for name in before) and any("embed_scale" in name for name in before)
    cast_weights(model, torch.bfloat16)
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]) == name.endswith("inv_freq")


def test_a_router_that_its_family_keeps_in_float32_is_not_rounded():
    model = tiny_model("deepseek_v3")
    gate = model.model.layers[3].mlp.gate
    gate.e_score_correction_bias.copy_(torch.linspace(0, 1, 4) / 3)
    exact = gate.e_score_correction_bias.clone()
    cast_weights(model, torch.bfloat16)
    assert torch.equal(gate.e_score_correction_bias, exact)
