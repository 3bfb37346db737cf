"""What engines take for granted about the kinds of layer, and whether a cut keeps it."""

import pytest
from tiny import tiny_config

from depthprune.model.engine_fields import (
    mend_kinds,
    mend_period,
    pattern_notes,
    repeats_after,
    spelling_notes,
    without_next_token_layers,
)


@pytest.mark.parametrize(
    "kinds, period",
    [("sssfsssf", 4), ("sfsfs", 2), ("ssssss", None), ("sfssss", None), ("ssfssfs", 3), ("f", None)],
)
def test_a_period_is_one_that_is_seen_twice(kinds, period):
    assert repeats_after(kinds) == period


def test_a_cut_that_breaks_the_period_is_noted_and_one_that_keeps_it_is_not():
    config = tiny_config("gemma3_text")  # sliding, sliding, full, twice
    (note,) = pattern_notes(config, [1, 2, 3, 4, 5])
    assert "repeat every 3 layers" in note and "layer_types, from layer 1 on" in note
    assert pattern_notes(config, [0, 1, 2]) == () == pattern_notes(config, [3, 4, 5])
    assert pattern_notes(tiny_config("llama"), [0, 3]) == ()


@pytest.mark.parametrize(
    "stated, noted",
    [
        ({"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}, True),
        ({"text_config": {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "llama3"}}}, True),
        ({"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}, False),
        ({"rope_parameters": {"rope_theta": 500000.0}, "rope_theta": 500000.0}, False),
        ({"rope_theta": 500000.0}, False),
    ],
)
def test_a_base_that_other_engines_misread_is_noted(stated, noted):
    assert bool(spelling_notes(stated)) is noted


def test_positions_without_rotation_have_a_period_too():
    config = tiny_config("smollm3", layers=8)
    assert "no_rope_layers" in pattern_notes(config, [0, 1, 3, 4, 5, 6, 7])[0]


def test_a_pattern_in_letters_is_written_out():
    text = tiny_config("exaone4", layers=8)
    text.layer_types = ["sliding_attention", "full_attention", "full_attention"]
    section = {"sliding_window_pattern": "LLLG"}
    mend_period(section, text)
    assert section == {"sliding_window_pattern": "LGG", "layer_types": text.layer_types}


@pytest.mark.parametrize(
    "tensors, count",
    [
        (["model.layers.3.mlp.up_proj.weight"], 0),
        (["model.layers.4.eh_proj.weight"], 1),
        (["mtp.layers.0.mlp.up_proj.weight"], 1),
        (["model.mtp_layers.0.final_layernorm.weight"], 1),
    ],
)
def test_layers_for_speculative_decoding_are_claimed_where_they_are(tensors, count):
    section = {"num_hidden_layers": 4, "num_nextn_predict_layers": 1, "use_mtp": True}
    without_next_token_layers(section, tensors)
    assert section == {"num_hidden_layers": 4, "num_nextn_predict_layers": count, "use_mtp": bool(count)}


def test_kinds_in_other_words_follow():
    kinds = ["linear_attention", "full_attention", "linear_attention"]
    section = {"linear_attn_config": {"kda_layers": [1, 2, 3, 5], "full_attn_layers": [4], "head_dim": 8}}
    mend_kinds(section, tiny_config("kimi_linear", layers=3, layer_types=kinds))
    assert section["linear_attn_config"] == {"kda_layers": [1, 3], "full_attn_layers": [2], "head_dim": 8}
    letters = {"hybrid_override_pattern": "MM*-E"}
    kinds = ["linear_attention", "full_attention", "mlp", "moe"]
    mend_kinds(letters, tiny_config("nemotron_h", layers=4, layer_types=kinds))
    assert letters == {"hybrid_override_pattern": "M*-E"}
