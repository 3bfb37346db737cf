import copy
import math

import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers
from depthprune.model.hooks import hidden_state
from depthprune.model.skip import skipped
from depthprune.model.surgery import remove_layers
from depthprune.recovery.base import Evidence
from depthprune.recovery.collapse import Collapse, mean_cosine
from depthprune.recovery.combination import linears
from depthprune.recovery.states import final_states
from depthprune.selection import ByRecovery, Sizes

BATCHES = [tiny_batch(seed=0), tiny_batch(seed=1, batch_size=3, length=9)]
LAYERS = 8


def chosen(model, recovery, **amount):
    sizes = Sizes(LAYERS * 10, [10] * LAYERS)
    return recovery.choose(model, Evidence(batches=BATCHES), ByRecovery(**amount), sizes)


def naive_final_tokens(model):
    """What leaves the last layer, one real token after the other."""
    found = []
    handle = decoder_layers(model)[-1].register_forward_hook(
        lambda _, __, out: found.append(hidden_state(out))
    )
    with torch.no_grad():
        for batch in BATCHES:
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                model(ids[None, : mask.sum()])
    handle.remove()
    return [token for states in found for token in states[0]]


def naive_cosine(one, other):
    total = 0.0
    for a, b in zip(one, other, strict=True):
        a, b = a.double(), b.double()
        total += float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))
    return total / len(one)


def naive_collapse(model, merge_layers, interval, threshold, count):
    """The paper's algorithm, with layers really merged and cut, in positions of the current model."""
    whole, current, gone = naive_final_tokens(model), copy.deepcopy(model), 0
    position, cosines = LAYERS - 1, []
    while gone < count:
        depth, most = len(decoder_layers(current)), min(merge_layers - 1, count - gone)
        position = min(position, depth - 1 - most)
        if position < 0:
            break
        trial = copy.deepcopy(current)
        layers = decoder_layers(trial)
        following = range(position + 1, position + 1 + most)
        for name, weight in linears(layers[position]).items():
            base = weight.detach().clone()
            with torch.no_grad():
                for k in following:
                    weight += linears(layers[k])[name] - base
        remove_layers(trial, list(following))
        cosines.append(naive_cosine(whole, naive_final_tokens(trial)))
        if cosines[-1] > threshold:
            current, gone, position = trial, gone + most, position - interval
        else:
            position -= 1
    return current, cosines


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
@pytest.mark.parametrize(
    "merge_layers, interval, threshold, count",
    [(2, 1, -1, 3), (3, 1, 0.2, 4), (3, 2, 0.35, 4), (4, 1, 0.3, 3)],
)
def test_the_search_and_its_result_equal_the_papers_algorithm(
    family, merge_layers, interval, threshold, count
):
    model = tiny_model(family, layers=LAYERS)
    before = copy.deepcopy(model)
    expected, cosines = naive_collapse(model, merge_layers, interval, threshold, count)
    recovery = Collapse(merge_layers=merge_layers, interval=interval, threshold=threshold)
    if max(cosines) <= threshold:
        with pytest.raises(UserError, match="no merge keeps the mean cosine"):
            chosen(model, recovery, num_removed=count)
        return
    plan = chosen(model, recovery, num_removed=count)
    assert [trial["cosine"] for trial in plan.search] == pytest.approx(cosines, abs=1e-5)
    assert [trial["accepted"] for trial in plan.search] == [cosine > threshold for cosine in cosines]
    # Trying leaves nothing behind.
    assert all(now.equal(then) for now, then in zip(model.parameters(), before.parameters(), strict=True))

    report = recovery(model, plan, Evidence())
    assert report["changed_layers"] == sorted(plan.combined)
    with skipped(model, plan.removed):
        now = mean_cosine(final_states(before, BATCHES), final_states(model, BATCHES))
    assert now == [trial["cosine"] for trial in plan.search if trial["accepted"]][-1]
    remove_layers(model, plan.removed)
    for name, weight in expected.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), weight, rtol=1e-4, atol=1e-5)


def test_nested_merges_are_differences_to_each_base():
    model = tiny_model(layers=LAYERS)
    theta = [layer.mlp.up_proj.weight.detach().clone() for layer in model.model.layers]
    recovery = Collapse(merge_layers=3, threshold=-1)
    plan = chosen(model, recovery, num_removed=4)
    assert plan.removed == (4, 5, 6, 7) and plan.merged_into == dict.fromkeys((4, 5, 6, 7), 3)
    recovery(model, plan, Evidence())
    inner = theta[5] + (theta[6] - theta[5]) + (theta[7] - theta[5])
    outer = theta[3] + (theta[4] - theta[3]) + (inner - theta[3])
    torch.testing.assert_close(model.model.layers[3].mlp.up_proj.weight.detach(), outer)


def test_protected_layers_stay_and_the_range_is_kept():
    model = tiny_model(layers=LAYERS)
    plan = chosen(model, Collapse(merge_layers=2, threshold=-1), num_removed=3, protect=(7, 5))
    assert plan.removed == (3, 4, 6)
    ranged = Collapse(merge_layers=3, threshold=-1, lowest_layer=1, highest_layer=-3)
    assert chosen(model, ranged, num_removed=4).removed == (2, 3, 4, 5)
    plan = chosen(model, ranged, num_removed=6)
    assert plan.removed == (2, 3, 4, 5) and "Only 4 of the 6 layers" in plan.notes[0]


def test_unlike_neighbours_are_never_merged():
    model = tiny_model(layers=LAYERS)
    for i in (6, 3):
        model.model.layers[i].mlp.down_proj.bias = torch.nn.Parameter(torch.zeros(32))
    plan = chosen(model, Collapse(merge_layers=4, threshold=-1), num_removed=4)
    assert plan.merged_into == {5: 4, 1: 0, 2: 0}
    hybrid = tiny_model("qwen3_next", layers=6)
    with pytest.raises(UserError, match="no two neighbouring layers"):
        Collapse().choose(hybrid, Evidence(batches=BATCHES), ByRecovery(), Sizes(60, [10] * 6))


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"threshold": 0.9999}, "the best, of"),
        ({"lowest_layer": 9}, "recovery.lowest_layer: layer 9"),
        ({"lowest_layer": 5, "highest_layer": 5}, "merging needs two layers"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(settings, message):
    with pytest.raises(UserError) as refusal:
        chosen(tiny_model(layers=LAYERS), Collapse(**settings))
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_cosine_that_is_not_finite_counts_as_opposite():
    one = [torch.tensor([[1.0, 0.0], [1.0, 1.0]])]
    assert mean_cosine(one, [torch.tensor([[2.0, 0.0], [float("nan"), 1.0]])]) == 0.0
