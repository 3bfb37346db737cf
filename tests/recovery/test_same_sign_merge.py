import copy
import math

import pytest
import torch
from tiny import tiny_model

from depthprune.errors import UserError
from depthprune.importance.factors import FactorPair, mean_squared_gradient, write_step
from depthprune.model.anatomy import decoder_layers, layers_path, linear_weights
from depthprune.recovery.base import Evidence
from depthprune.recovery.same_sign_merge import SameSignMerge
from depthprune.recovery.strongest import top_fraction
from depthprune.selection import Plan

RANK = 3
# Experts that PEFT takes for [E, out, in] whatever they are: its product has the layout of the weight.
ADAPTED_AS_STORED = ("llama4_text",)


def spool(model, family, folder, without=(), steps=4):
    """Random factor pairs for every linear, in PEFT's shapes."""
    generator = torch.Generator().manual_seed(0)
    for step in range(steps):
        pairs = {}
        for i, layer in enumerate(decoder_layers(model)):
            for name, weight in linear_weights(layer).items():
                swapped = weight.transposed and not (weight.experts and family in ADAPTED_AS_STORED)
                d_out, d_in = weight.parameter.shape[-2:][:: -1 if swapped else 1]
                experts = weight.experts or 1
                path = f"{layers_path(model)}.{i}.{name.removesuffix('.weight')}"
                if path not in without:
                    a = torch.randn(experts * RANK, d_in, generator=generator)
                    b = torch.randn(d_out, RANK * experts, generator=generator)
                    pairs[path] = FactorPair(a, b, weight.experts)
        write_step(folder, step, pairs)


def naive_top(matrix, fraction):
    """The set of flat positions of the largest entries by a full, stable sort."""
    flat = matrix.flatten().tolist()
    count = round(fraction * len(flat))
    return set(sorted(range(len(flat)), key=lambda i: -flat[i])[:count])


def naive_merge(model, plan, folder, family, fraction):
    """{(kept layer, linear): merged weight}, element by element."""
    layers = decoder_layers(model)
    merged = {}
    for kept in set(plan.merged_into.values()):
        for name, target in linear_weights(layers[kept]).items():
            total = target.parameter.detach().float().flatten(-2).clone()
            signs = target.parameter.detach().flatten(-2).sign()
            for source in sorted(r for r, k in plan.merged_into.items() if k == kept):
                weight = linear_weights(layers[source])[name]
                path = f"{layers_path(model)}.{source}.{name.removesuffix('.weight')}"
                matrix = mean_squared_gradient(folder, path, weight.experts)
                if matrix is None:
                    continue
                if weight.transposed and not (weight.experts and family in ADAPTED_AS_STORED):
                    matrix = matrix.mT
                values = weight.parameter.detach().flatten(-2)
                rows = zip(
                    matrix.reshape(-1, values.shape[-1]),
                    values.reshape(-1, values.shape[-1]),
                    signs.reshape(-1, values.shape[-1]),
                    total.reshape(-1, values.shape[-1]),
                    strict=True,
                )
                for gradient, value, sign, result in rows:  # one row for each expert
                    for position in naive_top(gradient, fraction):
                        if value[position].sign() == sign[position]:
                            result[position] += value[position].float()
            merged[kept, name] = total.reshape(target.parameter.shape).to(target.parameter.dtype)
    return merged


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe", "gpt_oss", "mixtral", "llama4_text"])
def test_merge_equals_a_naive_one_bit_for_bit(tmp_path, family, dtype):
    # Layers alternate between two kinds in some families; Llama 4's square experts hide how they are stored.
    changes = {"qwen3_moe": {"mlp_only_layers": []}, "llama4_text": {"intermediate_size": 16}}
    model = tiny_model(family, layers=6, hidden_size=16, vocab_size=32, **changes.get(family, {})).to(dtype)
    before = copy.deepcopy(model)
    spool(model, family, tmp_path)
    plan = Plan(6, (2, 3, 4, 5), merged_into={2: 0, 4: 0, 3: 1, 5: 1})
    report = SameSignMerge(keep_top=0.3)(model, plan, Evidence(tmp_path))
    expected = naive_merge(before, plan, tmp_path, family, 0.3)

    layers = decoder_layers(model)
    for (kept, name), weight in expected.items():
        found = linear_weights(layers[kept])[name].parameter
        integers = torch.int32 if dtype == torch.float32 else torch.int16
        assert found.detach().contiguous().view(integers).equal(weight.view(integers)), (kept, name)
        assert not found.equal(linear_weights(decoder_layers(before)[kept])[name].parameter)
    assert [row["layer"] for row in report["merged"]] == [2, 4, 3, 5]
    assert all(row["skipped"] == [] and 0 < row["added"] < row["elements"] for row in report["merged"])


def test_biases_norms_removed_layers_and_the_rest_stay_untouched(tmp_path):
    model = tiny_model("gpt2", layers=4)
    before = copy.deepcopy(model.state_dict())
    spool(model, "gpt2", tmp_path)
    SameSignMerge()(model, Plan(4, (2,), merged_into={2: 1}), Evidence(tmp_path))
    changed = {name for name, weight in model.state_dict().items() if not weight.equal(before[name])}
    linears = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert changed == {f"transformer.h.1.{name}.weight" for name in linears}


def test_a_weight_without_adapter_is_skipped_and_said(tmp_path):
    model = tiny_model(layers=4)
    before = copy.deepcopy(model.state_dict())
    spool(model, "llama", tmp_path, without=("model.layers.2.mlp.up_proj",))
    report = SameSignMerge()(model, Plan(4, (2,), merged_into={2: 1}), Evidence(tmp_path))
    (row,) = report["merged"]
    assert (row["layer"], row["into"], row["skipped"]) == (2, 1, ["mlp.up_proj.weight"])
    name = "model.layers.1.mlp.up_proj.weight"
    assert model.state_dict()[name].equal(before[name])
    assert not model.model.layers[1].mlp.gate_proj.weight.equal(before[name.replace("up", "gate")])


def test_a_layer_of_another_kind_is_skipped_and_said(tmp_path):
    model = tiny_model("llama4_text", layers=4)  # experts in every second layer
    before = copy.deepcopy(model.state_dict())
    spool(model, "llama4_text", tmp_path)
    report = SameSignMerge()(model, Plan(4, (2,), merged_into={2: 1}), Evidence(tmp_path))
    experts = [f"feed_forward.experts.{name}" for name in ("gate_up_proj", "down_proj")]
    shared = [f"feed_forward.shared_expert.{name}_proj.weight" for name in ("gate", "up", "down")]
    assert sorted(report["merged"][0]["skipped"]) == sorted(experts + shared)
    changed = {name for name, weight in model.state_dict().items() if not weight.equal(before[name])}
    assert changed == {f"model.layers.1.self_attn.{name}_proj.weight" for name in "qkvo"}


def test_the_report_counts_the_elements(tmp_path):
    model = tiny_model(layers=4)
    before = copy.deepcopy(model)
    spool(model, "llama", tmp_path)
    report = SameSignMerge(keep_top=0.2)(model, Plan(4, (2,), merged_into={2: 1}), Evidence(tmp_path))
    source, old = (linear_weights(decoder_layers(before)[i]) for i in (2, 1))
    new = linear_weights(decoder_layers(model)[1])
    (row,) = report["merged"]
    assert row["elements"] == sum(round(0.2 * weight.parameter.numel()) for weight in source.values())
    assert row["added"] == sum(int((new[name].parameter != old[name].parameter).sum()) for name in new)


def test_nothing_to_merge_changes_nothing():
    model = tiny_model(layers=4)
    before = copy.deepcopy(model.state_dict())
    assert SameSignMerge()(model, Plan(4, (2,)), Evidence()) == {"changed_layers": [], "merged": []}
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 5), (7, 9), (3, 25)])
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("values", ["distinct", "ties", "mostly zeros"])
def test_exactly_the_rounded_share_is_kept(size, fraction, values):
    generator = torch.Generator().manual_seed(1)
    matrix = torch.rand(size, generator=generator) + 0.1
    if values == "ties":
        matrix = torch.randint(1, 4, size, generator=generator).float()
    elif values == "mostly zeros":
        matrix = torch.where(torch.arange(matrix.numel()).reshape(size) == 0, matrix, 0.0)
    mask = top_fraction(matrix, fraction)
    count = max(1, round(fraction * matrix.numel()))
    assert mask.dtype == torch.bool and mask.shape == matrix.shape and int(mask.sum()) == count
    if count < matrix.numel():
        assert matrix[mask].min() >= matrix[~mask].max()
    # Ties go to the first.
    if count == round(fraction * matrix.numel()):
        assert set(mask.flatten().nonzero().flatten().tolist()) == naive_top(matrix, fraction)


def test_the_share_is_rounded_half_to_even_in_exact_arithmetic():
    assert int(top_fraction(torch.rand(5, 5), 0.1).sum()) == 2  # 2.5
    assert int(top_fraction(torch.rand(5, 7), 0.1).sum()) == 4  # 3.5
    assert math.floor(0.07 * 150) == 10 and 0.07 * 150 > 10.5  # floats would give 11
    assert int(top_fraction(torch.rand(10, 15), 0.07).sum()) == 10


def test_each_expert_keeps_its_own_share_and_one_without_gradient_nothing():
    values = torch.rand(4, 6, 5) * torch.tensor([1.0, 100.0, 0.0, 1e-6]).reshape(4, 1, 1)
    mask = top_fraction(values, 0.2)
    assert mask.sum(dim=(1, 2)).tolist() == [6, 6, 0, 6]
    assert all(mask[e].equal(top_fraction(values[e], 0.2)) for e in range(4))


@pytest.mark.parametrize(
    "removed, layers, setting, count",
    [
        (13, 32, "beyond-30%", 3),
        (6, 16, "beyond-30%", 1),
        (8, 32, "beyond-30%", 0),
        (4, 16, "beyond-30%", 0),
        (13, 32, "all", 13),
        (13, 32, "none", 0),
        (13, 32, 0, 0),
        (13, 32, 5, 5),
    ],
)
def test_how_many_layers_are_merged(removed, layers, setting, count):
    plan = Plan(layers, tuple(range(layers - removed, layers)))
    merged = SameSignMerge(layers=setting).complete(plan, list(range(layers))).merged_into
    # The most important of the removed ones, into the last layer that stays.
    assert merged == dict.fromkeys(range(layers - count, layers), layers - removed - 1)


def test_each_goes_into_the_nearest_kept_layer_before_it():
    plan = Plan(10, (0, 3, 4, 7, 9))
    merged = SameSignMerge(layers="all").complete(plan, [0.0] * 10)
    assert merged.merged_into == {3: 2, 4: 2, 7: 6, 9: 8}
    assert "Layer 0 has no kept layer before it and leaves nothing behind." in merged.notes


def test_the_most_important_of_the_removed_are_chosen():
    scores = [9, 9, 5, 1, 4, 5, 9, 9, 2, 9]
    plan = Plan(10, (2, 3, 4, 5, 8))
    assert set(SameSignMerge(layers=3).complete(plan, scores).merged_into) == {2, 5, 4}
    assert set(SameSignMerge(layers=1).complete(plan, scores).merged_into) == {2}


def test_notes_say_when_nothing_is_merged_and_when_it_is_more_than_the_evidence():
    def notes(removed, **settings):
        plan = Plan(32, tuple(range(32 - removed, 32)), notes=("as before",))
        merged = SameSignMerge(**settings).complete(plan, [0.0] * 32)
        assert merged.notes[0] == "as before"
        return merged.notes[1:]

    assert notes(8) == ("Nothing is merged: no layer beyond 30 % is removed.",)
    assert notes(13, layers="none") == ("Nothing is merged: recovery.layers is none.",)
    assert notes(13) == ()
    assert notes(13, layers=4) == ("4 of 32 layers are merged; the paper's evidence ends near 10 %.",)


def test_more_layers_than_are_removed_are_refused():
    plan = Plan(8, (5, 6))
    for layers in (3, -1):
        with pytest.raises(
            UserError, match=f"recovery.layers is {layers} and 2 layers are removed"
        ) as refusal:
            SameSignMerge(layers=layers).complete(plan, [0.0] * 8)
        assert "\n" not in str(refusal.value)
