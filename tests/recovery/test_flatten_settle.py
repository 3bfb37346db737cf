"""Layers fitted once more when all steps are taken."""

import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune.model.hooks import record_layer_io
from depthprune.model.skip import skipped
from depthprune.recovery.activations import mean_loss
from depthprune.recovery.base import Evidence
from depthprune.recovery.flatten.flatten import Flatten
from depthprune.recovery.flatten.search import Search
from depthprune.recovery.flatten.settle import settled
from depthprune.selection import Plan

BATCHES = [tiny_batch(batch_size=8, seed=seed) for seed in range(8)]
PLAN = Plan(6, (2, 3))


def search_of(model) -> Search:
    return Search(model, Evidence(batches=BATCHES), 0.25, (0.01, 0.1))


def test_a_layer_before_a_gap_is_fitted_to_what_the_whole_model_gives_behind_it():
    model = tiny_model(seed=1)
    search = search_of(model)
    search.cut(PLAN)
    assert search.standing == [1]
    (making,) = search.makings({(1, 1)})
    fitted = making.refit(0, (0.1,)).layer.mlp.down_proj.weight

    layer = model.model.layers[1]
    gram, pull, old = 0.0, 0.0, layer.mlp.down_proj.weight.detach().double()
    for batch in search.streams[0].batches:
        real, wide = batch["attention_mask"].bool(), []
        target = record_layer_io(model, batch)[3][1][real].double()
        hook = layer.mlp.down_proj.register_forward_pre_hook(lambda _, args, to=wide: to.append(args[0]))
        with skipped(model, PLAN.removed):
            rest = target - record_layer_io(model, batch)[1][1][real]
        hook.remove()
        z, weights = wide[0].detach()[real].double(), 1 / target.square().sum(dim=1, keepdim=True)
        gram, pull = gram + (z * weights).T @ z, pull + (z * weights).T @ rest
    penalty = 0.1 * gram.trace() / len(gram) * torch.eye(len(gram), dtype=torch.float64)
    change = torch.linalg.solve(gram + penalty, pull).T
    torch.testing.assert_close(fitted.double(), old + change, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_it_never_ends_worse_than_the_steps_or_the_bare_cut(family):
    model = tiny_model(family, seed=1)
    search, recovery = search_of(model), Flatten(rho=(0.01, 0.1))
    plan = recovery.complete(PLAN, [])
    cut = mean_loss(model, search.held_out, plan.removed)
    report = recovery(model, plan, Evidence(batches=BATCHES))
    after = report["held_out_loss"]["after"]
    assert after == pytest.approx(mean_loss(model, search.held_out, plan.removed), rel=1e-5)
    assert after <= min([cut, *(step["loss"] for step in report["steps"][-1:])])


def test_only_what_gains_is_kept_and_layers_that_did_nothing_cost_nothing():
    model = tiny_model(seed=1)
    with torch.no_grad():
        for i in PLAN.removed:
            model.model.layers[i].self_attn.o_proj.weight.zero_()
            model.model.layers[i].mlp.down_proj.weight.zero_()
    search = search_of(model)
    whole = search.loss
    search.cut(PLAN)
    outcome = settled(search)
    assert outcome.loss <= whole * (1 + 1e-6) and not outcome.steps
    search.undo()
    assert search.loss == whole and search.left == list(range(6)) and not search.standing
