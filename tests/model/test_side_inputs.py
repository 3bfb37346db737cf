"""Layers read more than hidden states: what they read stays, or the removal is refused."""

import pytest
from tiny import LATENT_ATTENTION, tiny_config, tiny_model
from transformers import Granite4VisionConfig, Qwen3VLConfig

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers
from depthprune.model.side_inputs import image_layers, sources
from depthprune.model.surgery import remove_layers

SPARSE = {**LATENT_ATTENTION, "index_topk": 4, "index_head_dim": 8, "index_n_heads": 2}
CHOICES = ["full", "full", "shared", "shared", "full", "shared"]


def test_a_choice_of_positions_that_later_layers_use_stays():
    model = tiny_model("glm_moe_dsa", indexer_types=CHOICES, **SPARSE)
    with pytest.raises(UserError, match=r"layer 2 uses what layer 1 computes .* could go: 0, 2, 3, 5$"):
        remove_layers(model, [1])
    assert len(decoder_layers(remove_layers(model, [1, 2, 3]))) == 3


def test_sources_are_the_last_layer_that_chose_and_the_one_named():
    assert sources(tiny_config("glm_moe_dsa", indexer_types=CHOICES))[3] == {1}
    shared = tiny_config("mistral_large4_text", kv_source_layers=[0, 0, 2, 3, 3, 5])
    assert sources(shared) == {0: set(), 1: {0}, 2: set(), 3: set(), 4: {3}, 5: set()}
    assert sources(tiny_config()) == {}


def test_layers_at_which_images_enter_by_number():
    assert image_layers(tiny_config()) == 0
    assert image_layers(Qwen3VLConfig()) == 3  # behind layers 0, 1, 2
    assert (
        image_layers(Granite4VisionConfig(deepstack_layer_map=[[3, 0], [6, 9]], spatial_target_layers=[4]))
        == 10
    )
