"""Repairs of down projections whose output goes through a norm."""

import copy

import pytest
import torch
from naive_repair import calibration, naive_loss, outputs, pruned
from tiny import tiny_model
from torch import nn

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers
from depthprune.recovery.base import Evidence
from depthprune.recovery.linear import Linear
from depthprune.recovery.projection import Projection
from depthprune.selection import Plan

NORMS = {
    "gemma2": "post_feedforward_layernorm",
    "gemma3_text": "post_feedforward_layernorm",
    "olmo2": "post_feedforward_layernorm",
    "glm4": "post_mlp_layernorm",
    "exaone4": "post_feedforward_layernorm",
}
REMOVED = [2, 3]


def repair(model, batches, recovery):
    model = copy.deepcopy(model)
    return model, recovery(model, Plan(len(decoder_layers(model)), tuple(REMOVED)), Evidence(batches=batches))


def weighted_error(whole, shallow, batches, target=3, place=1):
    """Σ ‖h − h'‖² / ‖h‖² over the real tokens."""
    wanted = outputs(whole, target, batches)
    rest = (wanted - outputs(shallow, place, batches)).square().sum(1)
    return float((rest / wanted.square().sum(1)).sum())


@pytest.mark.parametrize("recovery", [Projection(rho=(1.0,)), Linear()], ids=["projection", "linear"])
@pytest.mark.parametrize("family", NORMS)
def test_what_the_fit_promises_is_what_the_pruned_model_does(family, recovery):
    model = tiny_model(family)
    batches = calibration(model, samples=64, batch_size=16)
    repaired, report = repair(model, batches, recovery)
    (row,) = report["repairs"]
    assert (report["changed_layers"], row["layer"], row["target"]) == ([1], 1, 3)
    changed = {
        name for name, p in model.named_parameters() if not torch.equal(p, repaired.get_parameter(name))
    }
    assert changed == {f"model.layers.1.{end}.weight" for end in ("mlp.down_proj", NORMS[family])}
    fit, held_out = batches[:3], batches[3:]
    bare, shallow = pruned(model, REMOVED), pruned(repaired, REMOVED)
    assert weighted_error(model, shallow, fit) < 0.9 * weighted_error(model, bare, fit)
    share = weighted_error(model, shallow, held_out) / weighted_error(model, bare, held_out)
    assert row["candidates"][1]["held_out_error"] == pytest.approx(share, rel=1e-3)
    losses = [naive_loss(each, held_out) for each in (bare, shallow)]
    assert list(report["held_out_loss"].values()) == pytest.approx(losses, rel=1e-5)


def test_a_bias_before_the_norm_follows_the_map_and_one_after_it_stays():
    model = tiny_model("glm4")
    layer = decoder_layers(model)[1]
    old = layer.mlp.down_proj
    layer.mlp.down_proj = nn.Linear(old.in_features, old.out_features)
    layer.post_mlp_layernorm = nn.LayerNorm(32)
    with torch.no_grad():
        layer.mlp.down_proj.weight.copy_(old.weight)
        layer.mlp.down_proj.bias.normal_(generator=torch.Generator().manual_seed(0))
        layer.post_mlp_layernorm.bias.normal_(generator=torch.Generator().manual_seed(1))
    batches = calibration(model, samples=16)
    repaired, report = repair(model, batches, Projection(rho=(1.0,)))
    assert report["changed_layers"] == [1]
    new = decoder_layers(repaired)[1]
    assert torch.equal(new.post_mlp_layernorm.bias, layer.post_mlp_layernorm.bias)
    assert not torch.equal(new.mlp.down_proj.bias, layer.mlp.down_proj.bias)
    held_out = batches[3:]
    share = weighted_error(model, pruned(repaired, REMOVED), held_out) / weighted_error(
        model, pruned(model, REMOVED), held_out
    )
    assert report["repairs"][0]["candidates"][1]["held_out_error"] == pytest.approx(share, rel=1e-3)


def test_bf16_weights_stay_so_and_are_chosen_as_stored():
    model = tiny_model("gemma2").bfloat16()
    batches = calibration(model)
    repaired, report = repair(model, batches, Projection())
    assert report["changed_layers"] == [1]
    assert {p.dtype for p in repaired.parameters()} == {torch.bfloat16}
    after = naive_loss(pruned(repaired, REMOVED), batches[3:])
    assert report["held_out_loss"]["after"] == pytest.approx(after, rel=1e-3)


def test_a_map_that_raises_the_held_out_loss_is_not_folded_in():
    model = tiny_model("olmo2")
    batches = calibration(pruned(model, REMOVED))
    repaired, report = repair(model, batches, Linear())
    nothing, map_ = report["repairs"][0]["candidates"]
    assert map_["held_out_loss"] > nothing["held_out_loss"]
    assert report["changed_layers"] == []
    assert all(torch.equal(p, repaired.get_parameter(name)) for name, p in model.named_parameters())


def test_too_few_tokens_without_a_ridge_and_adam_are_refused():
    model = tiny_model("gemma2")
    few = calibration(model, samples=2, batch_size=2)
    with pytest.raises(UserError, match=r"layer 1: .*singular: .*alpha above 0"):
        repair(model, few, Linear())
    with pytest.raises(UserError, match=r"layer 1: .*singular: .*rho above 0"):
        repair(model, few, Projection(rho=(0.0,)))
    with pytest.raises(UserError, match=r"solver=adam .*norm after its MLP"):
        Projection(solver="adam").check(model)
