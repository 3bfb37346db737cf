import pytest
import torch
from tiny import tiny_batch, tiny_model
from torch import nn

from depthprune.model.anatomy import decoder_layers
from depthprune.recovery.norm_after import find_norm_after, known_norm
from depthprune.recovery.slope import call_arguments

EPSILONS = {"gemma2": 1e-6, "gemma3_text": 1e-6, "olmo2": 1e-5, "olmo3": 1e-5, "exaone4": 1e-5}


def found_in(model, path="mlp.down_proj"):
    layer = decoder_layers(model)[1]
    return layer, find_norm_after(layer, path, call_arguments(model)[1], 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", EPSILONS)
def test_the_norm_after_the_mlp_is_found_and_those_after_both_branches_computed_alike(family, dtype):
    layer, after = found_in(tiny_model(family).to(dtype))
    assert after.weight is layer.post_feedforward_layernorm.weight
    z = torch.randn(7, 32, generator=torch.Generator().manual_seed(0)) * 1e-3
    for norm in (layer.post_feedforward_layernorm, layer.post_attention_layernorm):
        known = known_norm(norm)
        assert (known.multiplier, known.norm.centred) == (1, False)
        assert after.multiplier == pytest.approx(1, abs=1e-5)
        assert known.norm.epsilon == pytest.approx(EPSILONS[family], rel=1e-4)
        assert torch.equal(known.stored(known.norm.gain), norm.weight)
        torch.testing.assert_close(known.norm(z), norm.float()(z), rtol=1e-4, atol=1e-4)


def test_a_layer_norm_is_told_by_its_centre_and_keeps_its_bias():
    model = tiny_model("glm4")
    other = decoder_layers(model)[1].post_mlp_layernorm = nn.LayerNorm(32, eps=3e-5)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(0))
    _, after = found_in(model)
    assert after.norm.centred and after.bias is other.bias
    assert after.norm.epsilon == pytest.approx(3e-5, rel=1e-3)
    z = torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(after.norm(z) + other.bias, other(z), rtol=1e-4, atol=1e-5)


class LengthNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(32))

    def forward(self, x):
        return self.weight * x / x.norm(dim=-1, keepdim=True)


def test_norms_of_other_kinds_are_refused_by_name():
    model = tiny_model("glm4")
    decoder_layers(model)[1].post_mlp_layernorm = LengthNorm()
    assert found_in(model)[1].startswith("post_mlp_layernorm, the norm after mlp.down_proj, is a LengthNorm")


def test_a_layer_without_such_a_norm_says_so():
    assert "nor through a norm" in found_in(tiny_model("opt", do_layer_norm_before=False), "fc2")[1]


def test_looking_changes_nothing():
    model = tiny_model("gemma2")
    batch, before = tiny_batch(), {name: p.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        logits = model(**batch).logits
        found_in(model)
        assert torch.equal(model(**batch).logits, logits)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
