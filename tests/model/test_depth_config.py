import pytest
from tiny import LATENT_ATTENTION, tiny_config

from depthprune.errors import UserError
from depthprune.model.depth_config import mended_fields, num_layers

KEPT = [0, 3, 4]


@pytest.mark.parametrize(
    ("family", "changes", "expected"),
    [
        ("llama", {}, {"num_hidden_layers": 3}),
        ("gpt2", {}, {"n_layer": 3}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 4},
         {"max_window_layers": 2,
          "layer_types": ["full_attention"] * 2 + ["sliding_attention"]}),
        ("deepseek_v3", {**LATENT_ATTENTION, "first_k_dense_replace": 4},
         {"first_k_dense_replace": 2, "num_nextn_predict_layers": 0}),
        ("qwen3_moe", {"mlp_only_layers": [4], "decoder_sparse_step": 1}, {"mlp_only_layers": [2]}),
        ("qwen3_moe", {"mlp_only_layers": [3], "decoder_sparse_step": 2},
         {"mlp_only_layers": [0, 1, 2], "decoder_sparse_step": 1}),
        ("llama4_text", {"interleave_moe_layer_step": 2},
         {"moe_layers": [1], "no_rope_layers": [1, 0, 1]}),
        ("smollm3", {}, {"no_rope_layers": [1, 0, 1]}),
        ("ernie4_5_moe", {"moe_layer_start_index": 3, "moe_layer_end_index": 5},
         {"moe_layer_start_index": 1, "moe_layer_end_index": 2, "moe_layer_interval": 1}),
        ("gpt_neo", {"attention_types": [[["global", "local"], 3]]},
         {"attention_types": [[["global", "local", "global"], 1]], "num_layers": 3}),
        ("recurrent_gemma", {}, {"block_types": ["recurrent", "recurrent", "recurrent"]}),
        ("dory", {"n_input_layers": 1, "n_recurrent_layers": 3, "n_output_layers": 2},
         {"n_input_layers": 1, "n_recurrent_layers": 1, "n_output_layers": 1}),
        ("mistral_large4_text", {"kv_source_layers": [0, 0, 2, 3, 3, 5], "qk_head_dim": 12},
         {"kv_source_layers": [0, 1, 1]}),
        ("xlstm", {}, {"num_hidden_layers": 3, "num_blocks": 3}),
        ("gemma3n_text",
         {"layer_types": ["sliding_attention", "full_attention"] * 3, "num_kv_shared_layers": 2},
         {"num_kv_shared_layers": 1, "activation_sparsity_pattern": [0.0] * 3}),
    ],
)  # fmt: skip
def test_fields_that_speak_of_layers(family, changes, expected):
    fields = mended_fields(tiny_config(family, **changes), KEPT)
    assert {name: fields[name] for name in expected} == expected


def test_lists_about_something_else_stay():
    fields = mended_fields(
        tiny_config("falcon_h1", layers=2, mamba_d_ssm=64, mamba_d_head=8, mamba_n_heads=8), [1]
    )
    assert "mlp_multipliers" not in fields  # two entries, and two layers
    assert "eos_token_id" not in mended_fields(tiny_config(layers=2, eos_token_id=[2, 3]), [0])


def test_longcat_counts_its_layers_elsewhere():
    assert num_layers(tiny_config("longcat_flash", num_hidden_layers=12, num_layers=6)) == 6


@pytest.mark.parametrize(
    ("family", "field", "value"),
    [
        ("llama", "max_window_layers", []),
        ("llama", "num_kv_shared_layers", "two"),
        ("llama", "mlp_only_layers", 3),
        ("qwen3_moe", "decoder_sparse_step", 0),
        ("jamba", "attn_layer_period", 0),
    ],
)
def test_a_field_of_a_strange_form_is_refused_in_one_line(family, field, value):
    config = tiny_config(family)
    setattr(config, field, value)
    with pytest.raises(UserError, match=r"^config\.json: .* is not of the form") as refusal:
        mended_fields(config, [0, 2, 3])
    assert "\n" not in str(refusal.value)
