"""Half-shifted cuts compute what the whole model does without those sublayers, bit for bit."""

import json

import pytest
import torch
from test_checkpoint import assert_same_tensors, tensors
from test_surgery import logits, skip
from tiny import FAMILIES, tiny_config, tiny_model

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers
from depthprune.model.checkpoint import prune_files
from depthprune.model.skeleton import skeleton
from depthprune.model.sublayers import layer_sides, recomposed
from depthprune.model.surgery import remove_layers
from depthprune.model.verify import save_verified

# The last module of a layer's attention and of its MLP, whose output is added to the residual stream.
ENDS = {
    "llama": ("self_attn", "mlp"),
    "qwen2": ("self_attn", "mlp"),
    "gemma3_text": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "olmo2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "glm4": ("post_self_attn_layernorm", "post_mlp_layernorm"),
    "opt": ("self_attn", "fc2"),
    "gpt2": ("attn", "mlp"),
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
    "granite": ("self_attn", "mlp"),
    "qwen3_moe": ("self_attn", "mlp"),
    "deepseek_v3": ("self_attn", "mlp"),
    "qwen3_next": (None, "mlp"),
    "llama4_text": ("self_attn", "feed_forward"),
}
PARALLEL = ("phi", "gpt_neox", "falcon", "cohere2")
# One run of two sublayers, and one of four beside a whole layer.
SHORT = ([3], {2: 3})
LONG = ([0, 3, 4], {2: 4})
IN_ALL = [family for family in ENDS if family not in ("qwen3_moe", "deepseek_v3")]


def silence(layer, path: str) -> None:
    """Makes a module add nothing."""

    def nothing(_, __, output):
        return torch.zeros_like(output) if isinstance(output, torch.Tensor) else (output[0] * 0, *output[1:])

    layer.get_submodule(path).register_forward_hook(nothing)


def without(family: str, removed: list[int], mlp_from: dict[int, int]):
    """The whole model with hooks that leave the sublayers out."""
    model = tiny_model(family)
    layers = decoder_layers(model)
    own, mlp = ENDS[family]
    for i in removed:
        if i in mlp_from.values():
            mixer = own or ("self_attn" if hasattr(layers[i], "self_attn") else "linear_attn")
            silence(layers[i], mixer)
        else:
            skip(layers[i])
    for i in mlp_from:
        silence(layers[i], mlp)
    return model


@pytest.mark.parametrize("family", IN_ALL)
def test_surgery_is_leaving_the_sublayers_out_in_memory_on_files_and_saved(family, tmp_path):
    tiny_model(family).save_pretrained(tmp_path / "whole", max_shard_size="60KB")
    for removed, mlp_from in (SHORT, LONG):
        expected = logits(without(family, removed, mlp_from))
        assert not torch.equal(expected, logits(remove_layers(tiny_model(family), removed)))
        model = remove_layers(tiny_model(family), removed, mlp_from)
        assert len(decoder_layers(model)) == 6 - len(removed)
        assert torch.equal(logits(model), expected)
        name = "-".join(map(str, removed))
        save_verified(model, None, tmp_path / f"memory-{name}")
        prune_files(tmp_path / "whole", removed, tmp_path / f"files-{name}", mlp_from=mlp_from)
        assert_same_tensors(tensors(tmp_path / f"files-{name}"), tensors(tmp_path / f"memory-{name}"))


@pytest.mark.parametrize(
    ("family", "changes", "removed", "mlp_from"),
    [
        # Experts in the odd layers but 1: layer 2 is dense and takes the experts of layer 3.
        ("qwen3_moe", {}, [3], {2: 3}),
        # The first two are dense: layer 1 takes the experts of layer 2.
        ("deepseek_v3", {}, [2], {1: 2}),
    ],
)
def test_experts_come_with_the_mlp(family, changes, removed, mlp_from, tmp_path):
    expected = logits(without(family, removed, mlp_from))
    model = remove_layers(tiny_model(family, **changes), removed, mlp_from)
    assert torch.equal(logits(model), expected)
    save_verified(model, None, tmp_path / "model")
    tiny_model(family, **changes).save_pretrained(tmp_path / "whole")
    prune_files(tmp_path / "whole", removed, tmp_path / "files", mlp_from=mlp_from)
    assert_same_tensors(tensors(tmp_path / "files"), tensors(tmp_path / "model"))
    saved, meant = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("files", "model"))
    for field in ("mlp_only_layers", "decoder_sparse_step", "first_k_dense_replace"):
        assert saved.get(field) == meant.get(field)


def test_kinds_of_attention_stay_with_the_attention():
    kinds = ["sliding_attention", "full_attention"] * 3
    model = remove_layers(tiny_model("gemma3_text", layer_types=kinds), [3], {2: 3})
    assert model.config.layer_types == [kinds[i] for i in (0, 1, 2, 4, 5)]


def test_experts_that_the_config_cannot_place_are_refused_and_the_model_left_alone():
    # Experts in every second layer, as a period: without MLP 2 it would break.
    model = tiny_model("jamba", attn_layer_period=1, attn_layer_offset=0, use_mamba_kernels=False)
    before = logits(model)
    with pytest.raises(
        UserError, match=r"jamba's config cannot say layer 2 with the MLP of layer 3: .*whole"
    ):
        remove_layers(model, [3], {2: 3})
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("family", PARALLEL)
def test_parallel_blocks_are_refused(family):
    with pytest.raises(UserError, match="the MLP reads what the attention reads"):
        remove_layers(tiny_model(family), [3], {2: 3})


def test_a_layer_whose_norms_lie_on_the_stream_is_refused():
    with pytest.raises(UserError, match="does not hand on what it reads"):
        remove_layers(tiny_model("opt", do_layer_norm_before=False), [3], {2: 3})


@pytest.mark.parametrize(
    ("removed", "mlp_from", "reason"),
    [
        ([3], {2: 4}, "layers 3 to 3"),
        ([3], {1: 3}, "here are none"),
        ([3], {3: 3}, "layer 3 cannot take"),
        ([2, 3], {4: 3}, "layer 4 cannot take"),
    ],
)
def test_other_mlps_are_refused(removed, mlp_from, reason):
    with pytest.raises(UserError, match=reason):
        remove_layers(tiny_model(), removed, mlp_from)


def test_recomposed_for_a_while():
    model = tiny_model()
    before, names = logits(model), list(model.state_dict())
    sides = layer_sides(skeleton(tiny_config()))
    with recomposed(model, {1: 2, 3: 5}, sides):
        assert not torch.equal(logits(model), before)
    assert torch.equal(logits(model), before)
    assert sorted(model.state_dict()) == sorted(names)


def test_every_family_is_sorted():
    divided = set()
    for family in FAMILIES:
        try:
            layer_sides(skeleton(tiny_config(family)))
            divided.add(family)
        except UserError:
            pass
    assert FAMILIES.keys() - divided == set(PARALLEL)
