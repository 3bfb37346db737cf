import pytest
import torch
from tiny import FAMILIES, tiny_batch, tiny_config, tiny_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, T5Config

from depthprune.errors import UserError
from depthprune.model.anatomy import (
    decoder_layers,
    down_projection,
    final_norm,
    layers_path,
    linear_weights,
    lm_head,
    lora_targets,
    parameters_per_layer,
    tied_embeddings,
    unwrap,
)

PATHS = {
    "gpt2": "transformer.h",
    "opt": "model.decoder.layers",
    "gpt_neox": "gpt_neox.layers",
    "falcon": "transformer.h",
}
MIXTURES = ["mixtral", "qwen3_moe", "gpt_oss", "llama4_text", "deepseek_v3", "qwen3_next"]


@pytest.fixture(scope="module")
def bare():
    """Models on the meta device: all of this needs shapes only."""

    def build(family):
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(tiny_config(family))

    return build


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_layers_norm_head_and_down_projection(family, bare):
    model = bare(family)
    assert layers_path(model) == PATHS.get(family, "transformer.h" if family == "bloom" else "model.layers")
    assert len(decoder_layers(model)) == 6
    assert tuple(final_norm(model).weight.shape) == (32,)
    assert tuple(lm_head(model).weight.shape) == (128, 32)
    assert tied_embeddings(model) == model.config.tie_word_embeddings
    counted = sum(parameters_per_layer(model)) + sum(
        p.numel() for name, p in model.named_parameters() if not name.startswith(layers_path(model))
    )
    assert counted == sum(p.numel() for p in model.parameters())
    for layer in decoder_layers(model):
        down = down_projection(layer)
        out = down.parameter.shape[-1] if down.transposed else down.parameter.shape[-2]
        assert out == 32 and (down.experts or 4) == 4


ATTENTION = [f"self_attn.{name}_proj.weight" for name in "qkvo"]


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", [*ATTENTION, "mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"]),
        ("gpt2", ["attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"]),
        ("gpt_oss", [*ATTENTION, "mlp.experts.gate_up_proj", "mlp.experts.down_proj"]),
    ],
)
def test_linears_of_a_layer(family, expected, bare):
    assert list(linear_weights(decoder_layers(bare(family))[0])) == expected


@pytest.mark.parametrize(
    ("family", "name", "shape", "transposed", "experts"),
    [
        ("llama", "mlp.down_proj.weight", (32, 48), False, None),
        ("gpt2", "mlp.c_fc.weight", (32, 128), True, None),
        ("mixtral", "mlp.experts.gate_up_proj", (4, 96, 32), False, 4),
        ("gpt_oss", "mlp.experts.gate_up_proj", (4, 32, 96), True, 4),
        ("llama4_text", "feed_forward.experts.down_proj", (4, 48, 32), True, 4),
    ],
)
def test_how_weights_are_stored(family, name, shape, transposed, experts, bare):
    weight = linear_weights(decoder_layers(bare(family))[1])[name]
    assert (tuple(weight.parameter.shape), weight.transposed, weight.experts) == (shape, transposed, experts)


@pytest.mark.parametrize("family", MIXTURES)
def test_routers_are_no_linears(family, bare):
    for layer in decoder_layers(bare(family)):
        parts = {part for name in linear_weights(layer) for part in name.split(".")}
        assert not parts & {"router", "gate", "shared_expert_gate"}


def test_encoder_decoders_and_models_without_layers_are_refused():
    with torch.device("meta"):
        t5 = AutoModelForSeq2SeqLM.from_config(
            T5Config(d_model=32, d_ff=32, num_layers=2, num_heads=4, d_kv=8)
        )
    with pytest.raises(UserError, match="encoder-decoder"):
        layers_path(t5)
    with pytest.raises(UserError, match="no Hugging Face model"):
        decoder_layers(nn.Linear(2, 2))
    cut = tiny_model()
    cut.config.num_hidden_layers = 5
    with pytest.raises(UserError, match="says that it has 5 decoder layers and holds no such list"):
        decoder_layers(cut)


def test_the_norm_of_a_family_that_ends_without_one(bare):
    with pytest.raises(UserError, match="no norm after its last layer"):
        final_norm(bare("openai-gpt"))


def test_other_lists_of_the_same_length_are_told_apart():
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    config = tiny_config(
        "gemma3n_text", layers=3, layer_types=kinds, num_kv_shared_layers=0, altup_num_inputs=4
    )
    with torch.device("meta"):
        assert layers_path(AutoModelForCausalLM.from_config(config)) == "model.layers"


def test_ddp_is_seen_through(tmp_path):
    model = tiny_model()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        assert unwrap(wrapped) is model and layers_path(wrapped) == "model.layers"
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("family", FAMILIES)
def test_lora_reaches_every_linear_and_merges_back(family):
    peft = pytest.importorskip("peft")
    model, batch = tiny_model(family), tiny_batch()
    names = [list(linear_weights(layer)) for layer in decoder_layers(model)]
    targets = lora_targets(model)
    config = peft.LoraConfig(
        r=2,
        target_modules=targets.target_modules,
        target_parameters=targets.target_parameters,
        lora_dropout=0.0,
        init_lora_weights=False,  # so that the adapters change something
    )
    wrapped = peft.get_peft_model(model, config)
    assert [list(linear_weights(layer)) for layer in decoder_layers(wrapped)] == names

    wrapped(**batch, labels=batch["input_ids"]).loss.backward()
    adapters = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
    assert len(adapters) == 2 * sum(map(len, names))
    assert all(p.grad is not None and p.grad.any() for p in adapters.values())
    assert all(".layers." in name or ".h." in name for name in adapters)
    with torch.no_grad():
        adapted = wrapped(**batch).logits
        merged = wrapped.merge_and_unload()(**batch).logits
    torch.testing.assert_close(merged, adapted, rtol=1e-3, atol=1e-3)


def test_routers_are_named_as_left_out(bare):
    assert (
        lora_targets(bare("llama4_text")).without_adapter[0] == "model.layers.1.feed_forward.router: a router"
    )
    assert lora_targets(bare("llama")).without_adapter == []
