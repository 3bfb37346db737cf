import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune import UserError, score_layers
from depthprune.importance.random import Random


def test_settings_reach_the_metric():
    model = tiny_model(layers=4)
    scores = score_layers(model, [], "random", seed=3)
    assert scores.equal(Random(seed=3)(model)) and not scores.equal(score_layers(model, [], "random"))


def test_block_influence_is_the_default():
    model = tiny_model(layers=4)
    batches = [tiny_batch()]
    assert score_layers(model, batches).equal(score_layers(model, batches, metric="block-influence"))


def test_labels_may_be_there_and_change_nothing():
    model = tiny_model(layers=4)
    batch = tiny_batch()
    labelled = {**batch, "labels": batch["input_ids"]}
    assert score_layers(model, [labelled]).equal(score_layers(model, [batch]))


def test_scoring_leaves_the_model_as_it_was():
    model = tiny_model(layers=4)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    score_layers(model, [tiny_batch()])
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(weight.grad is None for weight in model.parameters()) and torch.is_grad_enabled()


@pytest.mark.parametrize(
    "metric, settings, message",
    [
        ("block-influense", {}, "metric 'block-influense' is unknown: choose one of igia, gradient-norm, "),
        ("igia", {}, "metric 'igia' reads gradients of a training run: call depthprune.run"),
        ("random", {"sed": 1}, "random.sed: no such setting; did you mean 'seed'"),
        ("random", {"seed": "many"}, "random.seed is 'many': input should be a valid integer"),
    ],
)
def test_wrong_requests_say_how_to_mend_them(metric, settings, message):
    with pytest.raises(UserError, match=message) as refusal:
        score_layers(tiny_model(layers=2), [], metric, **settings)
    assert "\n" not in str(refusal.value)
