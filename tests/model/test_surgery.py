"""The pruned model computes what the whole one does with the removed layers skipped, in every family."""

import pytest
import torch
from skipping import skip
from tiny import FAMILIES, tiny_batch, tiny_model
from torch import Tensor, nn

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers
from depthprune.model.surgery import remove_layers
from depthprune.model.verify import save_verified

IDS = tiny_batch(length=14)["input_ids"]
FIRST, MIDDLE, LAST, SCATTERED = [0], [3], [5], [1, 2, 4]


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor = IDS) -> Tensor:
    return model(input_ids=ids, use_cache=False).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_layers_compute_as_before_in_memory_and_saved(family, tmp_path):
    whole = logits(tiny_model(family))
    for removed in (FIRST, MIDDLE, LAST, SCATTERED):
        skipping = tiny_model(family)
        for i in removed:
            skip(decoder_layers(skipping)[i])
        expected = logits(skipping)
        assert not torch.allclose(whole, expected, rtol=1e-3)  # the test would see a layer that stayed

        model = remove_layers(tiny_model(family), removed)
        assert len(decoder_layers(model)) == model.config.num_hidden_layers == 6 - len(removed)
        torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-6)
        save_verified(model, None, tmp_path / f"without-{removed[0]}")


def test_removing_one_by_one_is_removing_together():
    together = remove_layers(tiny_model("gemma3_text"), [1, 2, 4])
    one_by_one = tiny_model("gemma3_text")
    for i in (4, 2, 1):
        remove_layers(one_by_one, [i])
    assert together.config.to_dict() == one_by_one.config.to_dict()
    assert torch.equal(logits(together), logits(one_by_one))


def test_every_layer_index_follows():
    model = remove_layers(tiny_model("qwen3_next"), [0, 3])
    for place, layer in enumerate(decoder_layers(model)):
        indices = {module.layer_idx for module in layer.modules() if hasattr(module, "layer_idx")}
        assert indices == {place}


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([6], "layer 6 is not there"),
        ([-1], "-1 is not there"),
        ([2, 2], "layer 2 is named twice"),
        (range(6), "all 6"),
    ],
)
def test_impossible_removals_are_refused_and_leave_the_model_alone(layers, reason):
    model = tiny_model()
    before = logits(model)
    with pytest.raises(UserError, match=reason):
        remove_layers(model, list(layers))
    assert model.config.num_hidden_layers == 6
    assert torch.equal(logits(model), before)


def test_a_refused_removal_names_the_layers_that_could_go():
    model = tiny_model("diffllama")
    with pytest.raises(UserError, match=r"lambda_init of layer 4 would be .* layers that could go: 5$"):
        remove_layers(model, [3])
    with pytest.raises(UserError, match=r"windows of 2 layers that could go: 4-5$"):
        remove_layers(model, [0, 5])
    assert len(decoder_layers(remove_layers(model, [4, 5]))) == 4


def test_the_last_attention_layer_of_a_hybrid_stays():
    model = tiny_model(
        "qwen3_next", layer_types=["linear_attention", "full_attention"] + ["linear_attention"] * 4
    )
    with pytest.raises(UserError, match=r"no attention layer would remain.* could go: 0, 2, 3, 4, 5$"):
        remove_layers(model, [1])


def test_a_constant_that_depends_on_the_depth_is_kept():
    model = tiny_model("minicpm3", head_dim=4, num_key_value_heads=4, kv_lora_rank=16, q_lora_rank=16,
                       qk_rope_head_dim=4, qk_nope_head_dim=8, v_head_dim=8)  # fmt: skip
    scale = decoder_layers(model)[0].residual_scale
    remove_layers(model, [1, 2])
    assert decoder_layers(model)[0].residual_scale == pytest.approx(scale, rel=1e-12)
    assert model.config.scale_depth / 2 == pytest.approx(scale, rel=1e-12)


def test_a_parameter_that_holds_a_part_for_each_layer_is_cut(tmp_path):
    kinds = ["sliding_attention", "full_attention"] * 3
    small = {"vocab_size_per_layer_input": 128, "hidden_size_per_layer_input": 8, "laurel_rank": 4}
    model = tiny_model("gemma3n_text", layer_types=kinds, num_kv_shared_layers=2, **small)
    packed = model.model.embed_tokens_per_layer.weight.unflatten(1, (6, 8))
    remove_layers(model, [1])
    left = model.model.embed_tokens_per_layer.weight.unflatten(1, (5, 8))
    assert torch.equal(left, packed[:, [0, 2, 3, 4, 5]])
    save_verified(model, None, tmp_path / "model")


def test_wrapped_models_are_seen_through():
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(tiny_model(), peft.LoraConfig(target_modules=["q_proj"]))
    assert remove_layers(wrapped, [0]) is wrapped
    assert torch.equal(logits(wrapped), logits(remove_layers(tiny_model(), [0])))


def test_layers_that_share_weights_stay_tied_under_their_new_numbers(tmp_path):
    kinds = ["linear_attention", "hybrid"] * 3
    model = tiny_model(
        "zamba2", layers_block_type=kinds, num_key_value_heads=4, n_mamba_heads=8, chunk_size=8
    )
    save_verified(remove_layers(model, [2]), None, tmp_path / "model")


def test_a_model_that_scales_its_weights_by_the_layers_numbers_as_it_runs_is_refused():
    with pytest.raises(UserError, match="rescale_every"):
        remove_layers(tiny_model("rwkv", rescale_every=2), [1])
    assert len(decoder_layers(remove_layers(tiny_model("rwkv", rescale_every=0), [1]))) == 5
