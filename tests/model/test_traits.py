import pytest
from tiny import tiny_config
from transformers import AutoConfig

from depthprune.errors import UserError
from depthprune.model.traits import pruned_config


def test_the_given_config_stays_as_it_is():
    config = tiny_config("gemma3_text")
    before = config.to_dict()
    assert pruned_config(config, [1]).num_hidden_layers == 5
    assert config.to_dict() == before


def test_layer_types_are_sliced_and_survive_a_reload(tmp_path):
    config = pruned_config(tiny_config("gemma3_text"), [2])
    kinds = [
        "sliding_attention",
        "sliding_attention",
        "sliding_attention",
        "sliding_attention",
        "full_attention",
    ]
    assert config.layer_types == kinds
    config.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).layer_types == kinds


def test_a_period_is_searched_anew():
    # attention in layers 1, 4, 7 of 9: without 0, 1, 2 still every third; without 1, 4 only the last of seven
    jamba = tiny_config("jamba", layers=9, attn_layer_period=3, attn_layer_offset=1, expert_layer_period=10,
                        expert_layer_offset=9, mamba_dt_rank=4, mamba_d_state=8)  # fmt: skip
    config = pruned_config(jamba, [0, 1, 2])
    assert (config.attn_layer_period, config.attn_layer_offset) == (3, 1)
    config = pruned_config(jamba, [1, 4])
    assert [i for i in range(7) if i % config.attn_layer_period == config.attn_layer_offset] == [5]


def test_a_period_that_cannot_be_written_is_refused():
    jamba = tiny_config("jamba", layers=6, attn_layer_period=3, attn_layer_offset=1, expert_layer_period=2,
                        expert_layer_offset=1, mamba_dt_rank=4, mamba_d_state=8)  # fmt: skip
    with pytest.raises(
        UserError, match=r"config cannot say what remains without layers 0, 2: .* could go: "
    ) as refusal:
        pruned_config(jamba, [0, 2])
    assert "\n" not in str(refusal.value)


def test_the_last_layer_of_a_family_that_treats_it_specially_stays():
    with pytest.raises(UserError, match=r"use_bias of layer 4 .* could go: 0, 1, 2, 3, 4$"):
        pruned_config(tiny_config("gpt_neox_japanese"), [5])
