import copy

import pytest
import torch
from tiny import tiny_batch, tiny_model

from depthprune.model.anatomy import decoder_layers
from depthprune.model.surgery import remove_layers
from depthprune.recovery.combination import all_weights, collapsed, kinds, linears, merge
from depthprune.recovery.stack import Stack


def test_a_merged_layer_that_is_merged_again_is_a_sum_of_originals():
    stack = Stack.whole(6).combining({3: -1.0, 4: 1.0, 5: 1.0}).combining({1: 0.25, 2: 0.25, 3: 0.5})
    assert stack.left == [0, 1] and stack.removed == [2, 3, 4, 5]
    assert stack.combined == {1: {1: 0.25, 2: 0.25, 3: -0.5, 4: 0.5, 5: 0.5}}
    plan = stack.plan([], ["a note"])
    assert plan.removed == (2, 3, 4, 5) and plan.merged_into == {2: 1, 3: 1, 4: 1, 5: 1}
    assert plan.selection == "by-recovery" and plan.notes == ("a note",)
    assert type(plan).from_json(plan.to_json()) == plan


def test_a_share_of_zero_still_says_that_the_layer_went_there():
    stack = Stack.whole(3).combining({1: 0.0, 2: 1.0})
    assert stack.combined == {1: {1: 0.0, 2: 1.0}} and stack.removed == [2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral", "gpt_oss"])
def test_inside_the_model_computes_as_merged_and_afterwards_it_is_what_it_was(family, dtype):
    model, batch = tiny_model(family, layers=4).to(dtype), tiny_batch()
    before = copy.deepcopy(model)
    stack = Stack.whole(4).combining({1: -0.5, 2: 1.5})
    with torch.no_grad(), collapsed(model, stack, linears):
        inside = model(**batch).logits
    assert all(now.equal(then) for now, then in zip(model.parameters(), before.parameters(), strict=True))
    assert all("forward" not in vars(layer) for layer in decoder_layers(model))

    merge(model, stack.combined, linears)
    changed = {
        name for name, weight in model.named_parameters() if not weight.equal(before.get_parameter(name))
    }
    path = "transformer.h.1" if family == "gpt2" else "model.layers.1"
    assert changed == {f"{path}.{name}" for name in linears(decoder_layers(model)[1])}
    for name, weight in linears(decoder_layers(model)[1]).items():
        first, second = (linears(decoder_layers(before)[i])[name].float() for i in (1, 2))
        torch.testing.assert_close(weight, (1.5 * second - 0.5 * first).to(dtype))
    with torch.no_grad():
        assert remove_layers(model, [2])(**batch).logits.equal(inside)


def test_all_weights_are_norms_and_biases_too():
    layer = decoder_layers(tiny_model("gpt2", layers=2))[0]
    assert {"ln_1.weight", "ln_1.bias", "attn.c_attn.bias", "mlp.c_fc.weight"} <= all_weights(layer).keys()
    assert not {name for name in linears(layer) if "ln" in name or "bias" in name}


def test_only_layers_with_the_same_parameters_are_alike():
    assert len(set(kinds(tiny_model("llama", layers=4)))) == 1
    dense_and_sparse = kinds(tiny_model("qwen3_moe", layers=4))
    assert dense_and_sparse[1] == dense_and_sparse[2] != dense_and_sparse[3] and len(dense_and_sparse) == 4
    narrow = tiny_model("llama", layers=4)
    narrow.model.layers[2].mlp.up_proj = torch.nn.Linear(32, 40, bias=False)
    found = kinds(narrow)
    assert found[0] == found[1] == found[3] != found[2]


def test_layers_that_share_a_tensor_are_like_no_other():
    model = tiny_model("llama", layers=4)
    model.model.layers[3].mlp.up_proj.weight = model.model.layers[1].mlp.up_proj.weight
    found = kinds(model)
    assert found[0] == found[2] and len(set(found)) == 3
