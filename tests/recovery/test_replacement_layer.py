import copy
import math

import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune.errors import UserError
from depthprune.model.hooks import record_layer_io
from depthprune.model.surgery import remove_layers
from depthprune.recovery.activations import mean_loss
from depthprune.recovery.base import Evidence
from depthprune.recovery.held_out import split_samples
from depthprune.recovery.replacement_layer import ReplacementLayer
from depthprune.selection import Plan

PLAN = Plan(6, (3, 4))
PATHS = {"llama": "model.layers.2.", "gpt2": "transformer.h.2.", "mixtral": "model.layers.2."}


def labelled(model, seed, batch_size=4):
    """Samples whose labels are the whole model's own best guesses, so that being like it lowers the loss."""
    batch = tiny_batch(seed=seed, batch_size=batch_size)
    with torch.no_grad():
        guesses = model(**batch).logits.argmax(-1)
    labels = torch.cat([batch["input_ids"][:, :1], guesses[:, :-1]], dim=1)
    return {**batch, "labels": labels.where(batch["attention_mask"].bool(), -100)}


def batches_of(model, count=6):
    return [labelled(model, seed) for seed in range(count)]


@pytest.mark.parametrize("family", PATHS)
def test_the_layer_learns_to_stand_for_the_block_and_nothing_else_changes(family):
    model = tiny_model(family)
    before, batches = copy.deepcopy(model), batches_of(model)
    recovery = ReplacementLayer(num_train_epochs=8, learning_rate=1e-2, min_learning_rate=3e-3, held_out=0.25)
    report = recovery(model, PLAN, Evidence(batches=batches))
    assert report["changed_layers"] == [2] and report["stands_for"] == [2, 3, 4]
    assert len(report["training_error"]) == 8 and report["training_error"][-1] < report["training_error"][0]
    assert report["held_out_error"]["after"] < report["held_out_error"]["before"]
    assert report["held_out_loss"]["after"] < report["held_out_loss"]["before"]
    assert report["samples"] == {"fit": 18, "held_out": 6}
    weights = dict(before.named_parameters())
    changed = {name for name, weight in model.named_parameters() if not weight.equal(weights[name])}
    assert changed and all(name.startswith(PATHS[family]) for name in changed)

    again = copy.deepcopy(before)
    assert recovery(again, PLAN, Evidence(batches=batches)) == report
    assert all(one.equal(two) for one, two in zip(model.parameters(), again.parameters(), strict=True))

    # The figures are those of models that are really cut.
    held_out = split_samples(batches, 0.25)[1]
    for state, found in ((before, "before"), (model, "after")):
        assert mean_loss(remove_layers(copy.deepcopy(state), [3, 4]), held_out, ()) == pytest.approx(
            report["held_out_loss"][found], rel=1e-5
        )
    for state, found in ((before, "before"), (model, "after")):
        squares = []
        for batch in held_out:
            off = record_layer_io(state, batch)[2][1] - record_layer_io(before, batch)[4][1]
            squares += off[batch["attention_mask"].bool()].square().flatten().tolist()
        assert sum(squares) / len(squares) == pytest.approx(report["held_out_error"][found], rel=1e-5)


def test_one_step_is_adamw_on_the_clipped_gradient_of_the_whole_model():
    model = tiny_model()
    batches, before = [labelled(model, seed, batch_size=24) for seed in (0, 1)], copy.deepcopy(model)
    recovery = ReplacementLayer(num_train_epochs=1, held_out=0.5, learning_rate=1e-3, max_grad_norm=0.1)
    report = recovery(model, PLAN, Evidence(batches=batches))
    assert report["changed_layers"] == [2]

    layer = before.model.layers[2]
    with torch.no_grad():
        wanted = record_layer_io(before, batches[0])[4][1]
    difference = (record_layer_io(before, batches[0])[2][1] - wanted)[batches[0]["attention_mask"].bool()]
    error = difference.square().sum() / difference.numel()
    gradients = torch.autograd.grad(error, list(layer.parameters()))
    assert report["training_error"] == [pytest.approx(error.item())]
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    assert norm > 0.1
    for old, gradient, new in zip(
        layer.parameters(), gradients, model.model.layers[2].parameters(), strict=True
    ):
        clipped = gradient * 0.1 / norm
        # The first step of Adam is lr · g / (|g| + ε), after the weight decay.
        expected = old * (1 - 1e-3 * 1e-3) - 1e-3 * clipped / (clipped.abs() + 1e-8)
        torch.testing.assert_close(new, expected, rtol=1e-4, atol=1e-5)


def test_training_that_makes_the_loss_worse_is_undone():
    model = tiny_model().bfloat16()
    before, batches = copy.deepcopy(model), batches_of(model)
    recovery = ReplacementLayer(num_train_epochs=1, learning_rate=10, min_learning_rate=10)
    report = recovery(model, PLAN, Evidence(batches=batches))
    assert report["changed_layers"] == [] and report["trained_layer"] == 2
    assert report["held_out_loss"]["after"] > report["held_out_loss"]["before"]
    assert all(one.equal(two) for one, two in zip(model.parameters(), before.parameters(), strict=True))


def test_it_trains_in_float32_whatever_the_models_dtype():
    model = tiny_model().bfloat16()
    batches = batches_of(model)
    # A step of 1e-5 is lost on a bfloat16 weight of 0.1; a hundred of them are not.
    recovery = ReplacementLayer(num_train_epochs=20, learning_rate=1e-5, min_learning_rate=1e-5)
    report = recovery(model, PLAN, Evidence(batches=batches))
    assert report["training_error"][-1] < report["training_error"][0]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("removed, message", [((2, 4), "are none"), ((0, 1), "keep layer 0")])
def test_plans_without_a_block_or_a_layer_before_it_are_refused(removed, message):
    with pytest.raises(UserError, match=message) as refusal:
        ReplacementLayer().complete(Plan(6, removed), [])
    assert "\n" not in str(refusal.value)


def test_a_layer_that_shares_weights_is_refused():
    model = tiny_model()
    model.model.layers[2].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    with pytest.raises(UserError, match="layer 2 of llama shares weights"):
        ReplacementLayer()(model, PLAN, Evidence(batches=batches_of(model)))


@pytest.mark.parametrize("fraction, held_out", [(0.01, 1), (0.5, 6), (0.99, 11)])
def test_samples_are_split_once(fraction, held_out):
    batches = [{"input_ids": torch.arange(i * 4, i * 4 + 4)[:, None]} for i in range(3)]
    fit, rest = split_samples(batches, fraction)
    fit, rest = (torch.cat([batch["input_ids"] for batch in side])[:, 0].tolist() for side in (fit, rest))
    assert fit + rest == list(range(12)) and len(rest) == held_out
