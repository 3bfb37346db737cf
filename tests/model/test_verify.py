"""The gate lets sound models through and catches each way in which one can be broken."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, tiny_batch, tiny_model
from tiny_tokenizer import tiny_tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers
from depthprune.model.casting import cast_weights
from depthprune.model.faults import buffer_fault, logits_fault, tensor_fault
from depthprune.model.surgery import remove_layers
from depthprune.model.verify import (
    GateError,
    save_verified,
    verify,
)


@pytest.fixture
def saved(tmp_path):
    """A sound folder."""
    save_verified(tiny_model("qwen3"), None, tmp_path / "model")
    return tmp_path / "model"


def edit_tensors(folder, edit):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder) -> str:
    with pytest.raises(UserError) as refusal:
        verify(folder)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_sound_folder_passes(saved):
    verify(saved)


def test_a_missing_tensor_is_caught(saved):
    edit_tensors(saved, lambda tensors: tensors.pop("model.layers.3.mlp.up_proj.weight"))
    assert "model.layers.3.mlp.up_proj.weight is missing" in refused(saved)


def test_an_extra_tensor_is_caught(saved):
    edit_tensors(
        saved, lambda tensors: tensors.update({"model.layers.6.mlp.up_proj.weight": torch.zeros(48, 32)})
    )
    assert "model.layers.6.mlp.up_proj.weight is unexpected" in refused(saved)


def test_a_tensor_of_another_shape_is_caught(saved):
    edit_tensors(saved, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(31)}))
    reason = refused(saved)
    assert "model.norm.weight" in reason and "has another shape in its weights" in reason


def test_a_tensor_that_is_not_finite_is_caught(saved):
    edit_tensors(saved, lambda tensors: tensors["model.norm.weight"].fill_(float("nan")))
    assert "not finite" in refused(saved)


def test_a_torn_file_is_caught(saved):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert "model.safetensors is torn" in refused(saved)


def test_stale_layer_types_are_caught(saved):
    edit_config(saved, layer_types=["full_attention"] * 7)
    assert "its config cannot be loaded" in refused(saved)


def test_a_broken_tokenizer_is_caught(saved):
    (saved / "tokenizer.json").write_text("{}")
    assert "its tokenizer cannot be loaded" in refused(saved)


def test_a_plan_that_keeps_another_number_of_layers_is_caught(saved):
    (saved / "depthprune").mkdir()
    (saved / "depthprune" / "plan.json").write_text(json.dumps({"kept": [0, 1, 2, 4]}))
    assert "has 6 layers" in refused(saved)
    (saved / "depthprune" / "plan.json").write_text(json.dumps({"kept": [0, 1, 2, 4, 5, 7]}))
    verify(saved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wrong_layer_idx_in_memory_is_caught_and_nothing_is_written(dtype, tmp_path):
    model = cast_weights(tiny_model(), dtype)
    decoder_layers(model)[3].self_attn.layer_idx = 2
    with pytest.raises(GateError, match="KV cache"):
        save_verified(model, None, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_stale_layer_types_in_memory_are_caught(tmp_path):
    model = remove_layers(tiny_model("gemma3_text"), [0])
    model.config.layer_types = [*model.config.layer_types, "full_attention"]
    with pytest.raises(GateError):
        save_verified(model, None, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_computation_that_the_config_does_not_say_is_caught(tmp_path):
    model = tiny_model()
    decoder_layers(model)[3].self_attn.scaling *= 1.01
    with pytest.raises(GateError, match="logits differ on reload"):
        save_verified(model, None, tmp_path / "model")


def test_embeddings_that_the_config_ties_and_that_differ_are_said_to_be_two(tmp_path):
    model = tiny_model("gemma")
    model.lm_head.weight = torch.nn.Parameter(torch.randn(128, 32))
    save_verified(model, None, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["tie_word_embeddings"] is False
    assert tensor_fault(model, AutoModelForCausalLM.from_pretrained(tmp_path / "model")) is None


def test_a_flipped_bit_is_caught():
    model, reloaded = tiny_model(), tiny_model()
    assert tensor_fault(model, reloaded) is None
    with torch.no_grad():
        reloaded.model.layers[2].mlp.up_proj.weight.view(torch.int32)[5, 7] ^= 1
    assert tensor_fault(model, reloaded) == "model.layers.2.mlp.up_proj.weight is not what it was"


def test_models_that_compute_otherwise_are_told_apart():
    model, reloaded = tiny_model(), tiny_model()
    assert logits_fault(model, reloaded) is None
    reloaded.config.num_hidden_layers = 5  # leaves out the last layer, though its weights are there
    assert "differ on reload" in logits_fault(model, reloaded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "family", ["llama", "gemma3_text", "phi3", "olmo3", "falcon", "gpt_oss", "deepseek_v3"]
)
def test_rotary_frequencies_in_bfloat16_are_caught(family, dtype, tmp_path):
    model = cast_weights(tiny_model(family), dtype)
    names = [name for name, _ in model.named_buffers() if name.endswith("inv_freq")]
    rounded = next(name for name in names if "original" not in name)
    buffer = model.get_buffer(rounded)
    buffer.copy_(buffer.bfloat16())
    with pytest.raises(GateError, match=f"{rounded} is not what loading computes|logits differ on reload"):
        save_verified(model, None, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["llama", "gemma2", "deepseek_v3"])
def test_a_model_that_was_cast_with_its_buffers_is_caught(family, tmp_path):
    with pytest.raises(GateError, match=r"logits differ on reload|inv_freq is not what loading computes"):
        save_verified(tiny_model(family).to(torch.bfloat16), None, tmp_path / "model")


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3_text"])
def test_an_embedding_scale_in_bfloat16_is_caught(family, tmp_path):
    model = tiny_model(family)
    scale = model.model.embed_tokens.embed_scale
    scale.copy_(scale.bfloat16())
    with pytest.raises(GateError, match="logits differ on reload"):
        save_verified(model, None, tmp_path / "model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "factor"), [("granite", "embedding_multiplier"), ("gemma2", "embed_scale")]
)
def test_a_factor_that_is_off_by_a_rounding_is_caught(family, factor, dtype, tmp_path):
    model = cast_weights(tiny_model(family, **{factor: 12.0} if family == "granite" else {}), dtype)
    if family == "granite":
        model.model.embedding_multiplier *= 1 + 2**-8
    else:
        model.model.embed_tokens.embed_scale.mul_(1 + 2**-7)
    with pytest.raises(GateError, match="logits differ on reload"):
        save_verified(model, None, tmp_path / "model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_equal_weights_the_logits_on_reload_are_bit_equal(family, dtype, tmp_path):
    model = cast_weights(tiny_model(family), dtype)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert tensor_fault(model, again) is None
    assert logits_fault(model, again) is None
    assert buffer_fault(model, again) is None


def test_adapters_are_to_be_merged_first(tmp_path):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(tiny_model(), peft.LoraConfig(target_modules=["q_proj"]))
    for wrapped in (model, model.get_base_model()):
        with pytest.raises(GateError, match="merge them"):
            save_verified(wrapped, None, tmp_path / "model")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_is_what_was_in_memory(dtype, tmp_path):
    mixtral = tiny_model("mixtral", vocab_size=len(tiny_tokenizer()))
    model = remove_layers(cast_weights(mixtral, dtype), [1, 2])
    model.train()
    model.config.use_cache = False
    state = torch.random.get_rng_state()
    save_verified(model, tiny_tokenizer(), tmp_path / "model")
    assert model.training and model.config.use_cache is False
    assert torch.equal(torch.random.get_rng_state(), state)

    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert again.dtype == dtype and again.config.use_cache is True
    assert (again.config.bos_token_id, again.config.eos_token_id) == (1, 2)
    assert tensor_fault(model, again) is None
    batch = tiny_batch()
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(again(**batch).logits, model.eval()(**batch).logits, **close)
    assert AutoTokenizer.from_pretrained(tmp_path / "model")("a").input_ids == tiny_tokenizer()("a").input_ids
    verify(tmp_path / "model")


def test_saving_into_a_run_folder_replaces_the_weights_and_leaves_the_rest(tmp_path):
    folder = tmp_path / "run"
    tiny_model().save_pretrained(folder, max_shard_size="50KB")
    (folder / "depthprune").mkdir()
    (folder / "depthprune" / "scores.json").write_text("{}")
    save_verified(remove_layers(tiny_model(), [0]), None, folder)
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]
    assert (folder / "depthprune" / "scores.json").read_text() == "{}"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    verify(folder)


def test_a_generation_config_that_transformers_would_not_write_is_kept(tmp_path):
    model = tiny_model()
    model.generation_config.temperature = 0.6  # without do_sample
    model.generation_config.pad_token_id = 5
    save_verified(model, None, tmp_path / "model")
    kept = GenerationConfig.from_pretrained(tmp_path / "model")
    assert (kept.temperature, kept.pad_token_id, kept.eos_token_id) == (0.6, 5, 2)


def test_a_model_with_a_short_context_and_few_words_passes(tmp_path):
    short = tiny_model(vocab_size=5, max_position_embeddings=8)
    save_verified(short, None, tmp_path / "llama")
    save_verified(tiny_model("gpt2", max_position_embeddings=8), None, tmp_path / "gpt2")


def rewritten(folder, name, change):
    tiny_model().save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = change(tensors[name])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError) as refusal:
        verify(folder)
    assert name in str(refusal.value) and "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.int32, torch.int64, torch.uint8, torch.bool, torch.complex64]
)
@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.3.mlp.up_proj.weight", "model.norm.weight"]
)
def test_weights_that_are_no_floating_point_numbers(tmp_path, dtype, name):
    assert "is stored as" in rewritten(tmp_path, name, lambda tensor: (tensor * 3).to(dtype))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "lm_head.weight", "model.layers.3.mlp.up_proj.weight"]
)
def test_weights_that_are_not_finite(tmp_path, value, name):
    def poison(tensor):
        tensor[0, 0] = value  # of a token that no probe has
        return tensor

    assert "not finite" in rewritten(tmp_path, name, poison)


def test_whole_families_with_buffers_of_integers_pass(tmp_path):
    for family in ("gpt2", "gpt_neox", "bloom", "mixtral"):
        tiny_model(family).to(torch.bfloat16).save_pretrained(tmp_path / family)
        mask = torch.ones(1, 1, 8, 8, dtype=torch.uint8)
        if family == "gpt2":
            tensors = load_file(tmp_path / family / "model.safetensors") | {"transformer.h.0.attn.bias": mask}
            save_file(tensors, tmp_path / family / "model.safetensors", {"format": "pt"})
        verify(tmp_path / family)
