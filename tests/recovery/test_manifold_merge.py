import copy
import math

import numpy as np
import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers
from depthprune.model.hooks import hidden_state
from depthprune.model.surgery import remove_layers
from depthprune.recovery.base import Evidence
from depthprune.recovery.manifold import diffusion_map, entropy, mutual_information
from depthprune.recovery.manifold_merge import ManifoldMerge
from depthprune.selection import ByRecovery, Sizes

BATCHES = [tiny_batch(seed=seed, batch_size=6, length=8 + seed) for seed in range(3)]
LAYERS = 6
RECOVERY = ManifoldMerge(entropy_neighbors=8, mi_neighbors=4, beta=2.0)


def chosen(model, recovery=RECOVERY, **amount):
    sizes = Sizes(LAYERS * 10, [10] * LAYERS)
    return recovery.choose(model, Evidence(batches=BATCHES), ByRecovery(**amount), sizes)


def naive_points(model):
    """The mean output of each layer over the real tokens of each sample, one sample at a time."""
    found = [[] for _ in decoder_layers(model)]
    handles = [
        layer.register_forward_hook(lambda _, __, out, i=i: found[i].append(hidden_state(out)[0].mean(dim=0)))
        for i, layer in enumerate(decoder_layers(model))
    ]
    with torch.no_grad():
        for batch in BATCHES:
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
                model(ids[None, : mask.sum()])
    for handle in handles:
        handle.remove()
    return [torch.stack(states).double().numpy() for states in found]


def naive_round(model):
    """The position of the layer that the one after it is merged into, S of the two, and λ."""
    maps = [diffusion_map(cloud, 8.0, 0.5, 2) for cloud in naive_points(model)]
    count = len(maps)
    similar = np.zeros((count, count))
    for i in range(count):
        for j in range(i + 1, count):
            similar[i, j] = mutual_information(maps[i], maps[j], 4)
            similar[i, j] /= math.sqrt(entropy(maps[i], 8) * entropy(maps[j], 8))
            similar[j, i] = similar[i, j]
    first = max(range(count - 1), key=lambda i: similar[i, i + 1])
    one, other = (sum(similar[k]) / (count - 1) for k in (first, first + 1))
    return first, similar[first, first + 1], 1 / (1 + math.exp(-2.0 * one / (one + other)))


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_the_rounds_equal_layers_really_merged_and_cut(family):
    model = tiny_model(family, layers=LAYERS)
    before = copy.deepcopy(model)
    expected, origin, rounds = copy.deepcopy(model), list(range(LAYERS)), []
    for _ in range(3):
        first, similarity, share = naive_round(expected)
        layers = decoder_layers(expected)
        with torch.no_grad():
            for name, weight in layers[first].named_parameters():
                weight.copy_(share * weight + (1 - share) * layers[first + 1].get_parameter(name))
        remove_layers(expected, [first + 1])
        rounds.append((origin[first], [origin.pop(first + 1)], similarity, share))

    plan = chosen(model, num_removed=3)
    assert [(found["into"], found["layers"]) for found in plan.search] == [found[:2] for found in rounds]
    for found, (_, _, similarity, share) in zip(plan.search, rounds, strict=True):
        assert found["similarity"] == pytest.approx(similarity, abs=1e-3)
        assert found["share"] == pytest.approx(share, abs=1e-3)
    assert all(now.equal(then) for now, then in zip(model.parameters(), before.parameters(), strict=True))

    report = RECOVERY(model, plan, Evidence())
    assert report["changed_layers"] == sorted(set(plan.merged_into.values()))
    remove_layers(model, plan.removed)
    assert [i for i in range(LAYERS) if i not in plan.removed] == origin
    for name, weight in expected.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), weight, rtol=1e-3, atol=1e-3)


def test_shares_of_a_layer_add_up_to_one_and_survive_the_plans_file():
    plan = chosen(tiny_model(layers=LAYERS), num_removed=4)
    assert all(sum(parts.values()) == pytest.approx(1) for parts in plan.combined.values())
    assert type(plan).from_json(plan.to_json()) == plan


def test_protected_and_unlike_layers_stay():
    model = tiny_model(layers=LAYERS)
    assert not {1, 2, 5} & set(chosen(model, num_removed=3, protect=(1, 2, -1)).removed)
    model.model.layers[3].mlp.down_proj.bias = torch.nn.Parameter(torch.zeros(32))
    plan = chosen(model, num_removed=4)
    assert plan.removed == (1, 2, 5) and "1 layers fewer" in plan.notes[0]


def test_states_without_entropy_are_refused_in_one_line():
    model = tiny_model(layers=LAYERS)
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():  # sixteen samples of tokens that hardly differ, and two of others
        embedding[:64] = embedding[0] + 1e-4 * embedding[:64]
    batches = [{key: value.clone() for key, value in batch.items()} for batch in BATCHES]
    for batch in batches:
        batch["input_ids"] %= 64
    batches[0]["input_ids"][:2] += 64
    with pytest.raises(UserError, match="layer 0 have no positive entropy") as refusal:
        RECOVERY.choose(model, Evidence(batches=batches), ByRecovery(), Sizes(60, [10] * LAYERS))
    assert "\n" not in str(refusal.value)


def test_it_needs_as_many_samples_as_neighbours():
    assert ManifoldMerge().fewest_samples == 51 and ManifoldMerge(entropy_neighbors=3).fewest_samples == 6
