import copy

import pytest
import torch
from naive_repair import (
    LINEAR,
    calibration,
    contributions,
    outputs,
    pruned,
    relabelled,
    ridge_by_lstsq,
    uniform_model,
    with_map,
)
from tiny import tiny_model

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers
from depthprune.recovery.base import Evidence
from depthprune.recovery.linear import Linear
from depthprune.selection import Plan


def repair(model, removed, batches, **settings):
    model = copy.deepcopy(model)
    recovery = Linear(**settings)
    plan = recovery.complete(Plan(len(decoder_layers(model)), tuple(removed)), [])
    return model, recovery(model, plan, Evidence(batches=batches))


def naive_linear(model, removed, i, target, batches, alpha, original=None):
    """A copy of the model with T folded into layer i, and the squared error that T leaves."""
    shallow, place = pruned(model, removed), i - sum(r < i for r in removed)
    m, y = contributions(shallow, place, batches), outputs(shallow, place, batches)
    z = outputs(original or model, target, batches)
    # T M + Y − M against Z: T is fitted on what Z has beyond the rest of the layer's output.
    map_ = ridge_by_lstsq(z - (y - m), m, alpha)
    eye = torch.eye(len(map_), dtype=torch.float64)
    return with_map(model, i, map_ - eye), float((m @ map_.mT + y - m - z).square().sum())


@pytest.mark.parametrize(
    ("family", "alpha"),
    [*((family, 0.0) for family in LINEAR), ("llama", 2.0), ("gpt2", 2.0), ("gpt_oss", 2.0)],
)
def test_the_map_is_least_squares_on_the_stacked_tokens(family, alpha):
    model, removed = uniform_model(family), [2, 3]
    batches = calibration(model)
    naive, error = naive_linear(model, removed, 1, 3, batches[:3], alpha)
    batches = relabelled(batches, pruned(naive, removed))
    repaired, report = repair(model, removed, batches, alpha=alpha)
    assert report["changed_layers"] == [1]
    realised = outputs(model, 3, batches[:3]) - outputs(pruned(repaired, removed), 1, batches[:3])
    assert float(realised.square().sum()) == pytest.approx(error, rel=1e-3)
    for name, parameter in naive.named_parameters():
        torch.testing.assert_close(repaired.get_parameter(name), parameter, rtol=1e-2, atol=1e-3)
    row = report["repairs"][0]
    energy = float(contributions(model, 1, batches[:3]).square().sum())
    assert (row["layer"], row["target"], row["lambda"]) == (1, 3, alpha)
    assert row["rho"] == pytest.approx(alpha * 32 / energy, rel=1e-3)


def test_each_block_is_repaired_on_the_repaired_model():
    model, removed = tiny_model("llama", 6), [1, 3, 4]
    batches = calibration(model)
    once, _ = naive_linear(model, removed, 0, 1, batches[:3], 0.0)
    twice, _ = naive_linear(once, removed, 2, 4, batches[:3], 0.0, original=model)
    batches = relabelled(batches, pruned(twice, removed))
    repaired, report = repair(model, removed, batches, blocks="each")
    assert report["changed_layers"] == [0, 2]
    for name, parameter in twice.named_parameters():
        torch.testing.assert_close(repaired.get_parameter(name), parameter, rtol=1e-2, atol=1e-3)


def test_a_map_that_raises_the_held_out_loss_is_not_folded_in():
    model, removed = tiny_model("llama", 6), [2, 3]
    batches = calibration(pruned(model, removed))
    repaired, report = repair(model, removed, batches)
    nothing, map_ = report["repairs"][0]["candidates"]
    assert map_["held_out_loss"] > nothing["held_out_loss"]
    assert report["changed_layers"] == []
    assert all(torch.equal(p, repaired.get_parameter(name)) for name, p in model.named_parameters())


def test_the_deepest_layers_are_replaced_too():
    model = tiny_model("llama", 6)
    _, report = repair(model, [4, 5], calibration(model))
    assert [(row["layer"], row["target"]) for row in report["repairs"]] == [(3, 5)]


def test_gaps_and_a_removed_first_layer_are_refused():
    with pytest.raises(UserError, match=r"removed layers 1, 3, 4 are not consecutive.*blocks=each"):
        Linear().complete(Plan(6, (1, 3, 4)), [])
    for blocks in ("one", "each"):
        with pytest.raises(UserError, match=r"layer 0 is removed.*selection\.protect=0"):
            Linear(blocks=blocks).complete(Plan(6, (0, 1)), [])
    plan = Plan(6, (1, 3, 4))
    assert Linear(blocks="each").complete(plan, []) == plan


def test_a_singular_matrix_is_refused_without_a_ridge():
    model = tiny_model("llama", 6)
    batches = calibration(model, samples=2, batch_size=2)
    with pytest.raises(UserError, match=r"layer 1: .*singular: .*alpha above 0"):
        repair(model, [2, 3], batches)
    _, report = repair(model, [2, 3], batches, alpha=1.0)
    assert report["repairs"][0]["lambda"] in (None, 1.0)


def test_a_layer_that_takes_no_map_is_named():
    with pytest.raises(UserError, match=r"^layer 1, before removed ones, takes no linear map"):
        repair(tiny_model("llama4_text", 6), [2, 3], calibration(tiny_model("llama4_text", 6)))
