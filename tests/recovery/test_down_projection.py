import pytest
import torch
from naive_repair import LINEAR, calibration, contributions, outputs, pruned, uniform_model
from tiny import FAMILIES, tiny_model

from depthprune.errors import UserError
from depthprune.recovery.activations import outputs_and_contributions
from depthprune.recovery.down_projection import DownProjection, first_that_takes_a_map, probe

NORM_AFTER_MLP = ["gemma2", "gemma3_text", "olmo2", "olmo3", "glm4", "exaone4"]


@pytest.mark.parametrize("family", LINEAR)
def test_the_contribution_is_what_goes_when_the_down_projection_is_silent(family):
    model = uniform_model(family)
    batches, removed = calibration(model), [1, 2]
    down = probe(model, 3)
    with torch.no_grad():
        found = list(outputs_and_contributions(model, down, batches, removed))
    shallow = pruned(model, removed)
    expected = contributions(shallow, 1, batches)
    torch.testing.assert_close(
        torch.cat([y for _, y in found]).double(),
        expected,
        rtol=1e-4,
        atol=1e-5 * expected.abs().max().item(),
    )
    h = outputs(shallow, 1, batches)
    torch.testing.assert_close(torch.cat([output for output, _ in found]).double(), h, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", LINEAR)
def test_a_folded_map_moves_the_output_by_that_map_of_the_contribution(family):
    model = uniform_model(family)
    batches = calibration(model, samples=4)
    before, contribution = outputs(model, 2, batches), contributions(model, 2, batches)
    biases = {name: p.clone() for name, p in model.named_parameters() if name.endswith(".bias")}
    change = torch.randn(32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.1
    down = probe(model, 2)
    with torch.no_grad(), down.holding(down.folded(change)):
        moved = outputs(model, 2, batches) - before
        assert all(torch.equal(p, biases[name]) for name, p in model.named_parameters() if name in biases)
    expected = torch.stack([change @ y for y in contribution])
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    assert torch.equal(outputs(model, 2, batches), before)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_oss"])
def test_folding_keeps_the_dtype_and_rounds_once(family):
    model = uniform_model(family).bfloat16()
    down = probe(model, 0)
    assert down.multiplier == pytest.approx(1, abs=1e-5)
    change = torch.randn(32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = down.weight.parameter.detach().double()
    eye = torch.eye(32, dtype=torch.float64)
    exact = weight @ (eye + change).mT if down.weight.transposed else (eye + change) @ weight
    assert torch.equal(down.folded(change)[0], exact.bfloat16())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_found_linear_or_with_a_norm_or_neither(family):
    model = tiny_model(family)
    found = [probe(model, i) for i in range(6)]
    if family in NORM_AFTER_MLP:
        assert [down.norm.offset for down in found] == [float(family in ("gemma2", "gemma3_text"))] * 6
    elif family == "llama4_text":  # its experts give a row for each token and expert
        assert [isinstance(down, DownProjection) for down in found] == [True, False] * 3
        assert "one row for each token" in found[1]
    else:
        multiplier = 0.5 if family == "granite" else 1.0
        assert [down.multiplier for down in found] == pytest.approx([multiplier] * 6, abs=1e-5)
        assert [down.norm for down in found] == [None] * 6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_of_mlp_and_residual_stream_together_is_refused(dtype):
    model = tiny_model("opt", do_layer_norm_before=False).to(dtype)
    with pytest.raises(UserError, match=r"layer 0: .*nor through a norm.*recovery\.method=none") as refusal:
        first_that_takes_a_map(model)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("family", [*LINEAR, *NORM_AFTER_MLP, "llama4_text", "qwen3_next", "deepseek_v3"])
def test_models_with_a_layer_that_takes_a_map_pass(family):
    assert first_that_takes_a_map(tiny_model(family).bfloat16()).layer == 0
