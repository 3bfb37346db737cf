import json
import struct

import pytest
import torch
from tiny import tiny_config, tiny_model
from tiny_tokenizer import tiny_tokenizer
from transformers import AutoConfig, AutoModelForMaskedLM, T5Config, ViTConfig

from depthprune.errors import UserError
from depthprune.model.loading import load_config, load_model, load_tokenizer
from depthprune.model.skeleton import checkpoint_dtype


@pytest.fixture
def folder(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    return tmp_path


def refused(load, *args) -> str:
    with pytest.raises(UserError) as refusal:
        load(*args)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_model_keeps_its_dtype_or_is_cast(tmp_path):
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path)
    assert load_model(tmp_path).dtype == torch.bfloat16
    assert load_model(str(tmp_path), dtype="float32").dtype == torch.float32
    assert not load_model(tmp_path).training


def test_a_folder_that_is_not_there(tmp_path):
    assert "is not there" in refused(load_config, tmp_path / "nowhere")
    assert "is not there" in refused(load_model, "./nowhere")


def test_a_hub_id_that_cannot_be_had():
    assert "nobody/nothing: its config cannot be loaded" in refused(load_config, "nobody/nothing")


def test_a_file_instead_of_a_folder(folder):
    assert "is a file" in refused(load_model, folder / "config.json")


def test_no_config(folder):
    (folder / "config.json").unlink()
    assert "has no config.json" in refused(load_model, folder)
    (folder / "adapter_config.json").write_text("{}")
    assert "is a LoRA adapter" in refused(load_model, folder)


@pytest.mark.parametrize(
    ("text", "reason"), [("{", "not valid JSON"), ("{}", "no model_type"), ("[]", "no model_type")]
)
def test_a_broken_config(folder, text, reason):
    (folder / "config.json").write_text(text)
    assert reason in refused(load_config, folder)


@pytest.mark.parametrize(
    ("key", "value"), [("text_config", [[0.0], None]), ("text_config", "llama"), ("decoder", [1])]
)
def test_a_part_that_is_no_config(folder, key, value):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert "its config cannot be loaded" in refused(load_config, folder)


def test_an_unknown_model_type(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "abacus"}))
    assert "its config cannot be loaded" in refused(load_config, folder)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (T5Config(), "encoder-decoder"),
        (AutoConfig.for_model("bart"), "encoder-decoder"),
        (AutoConfig.for_model("bert"), "is an encoder"),
        (AutoConfig.for_model("roberta"), "is an encoder"),
        (ViTConfig(), "no language model"),
    ],
)
def test_other_kinds_of_model(tmp_path, config, reason):
    config.save_pretrained(tmp_path)
    assert reason in refused(load_config, tmp_path)


def test_an_encoder_with_its_weights(tmp_path):
    config = tiny_config("bert")
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    assert "is an encoder" in refused(load_model, tmp_path)


def test_no_weights_or_pickled_ones(folder):
    (folder / "model.safetensors").unlink()
    assert "has no model.safetensors" in refused(load_model, folder)
    torch.save({}, folder / "pytorch_model.bin")
    assert "pickles" in refused(load_model, folder)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_torn_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "is torn" in refused(load_model, folder)


def test_weights_with_something_behind_them(folder):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")
    assert "goes on after its last tensor" in refused(load_model, folder)


def test_weights_of_another_format(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"GGUF")
    assert "is not a safetensors file" in refused(load_model, folder)


def test_shards_that_are_missing_or_not_those_of_the_index(tmp_path):
    tiny_model().save_pretrained(tmp_path, max_shard_size="60KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[0]
    content = shard.read_bytes()
    shard.unlink()
    assert f"{shard.name} is missing" in refused(load_model, tmp_path)
    shard.write_bytes(sorted(tmp_path.glob("*.safetensors"))[0].read_bytes())
    assert "do not agree" in refused(load_model, tmp_path)
    shard.write_bytes(content)
    load_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{")
    assert "cannot be read" in refused(load_model, tmp_path)


def test_weights_that_do_not_fit_the_config(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 7}))
    assert "model.layers.6.input_layernorm.weight is missing" in refused(load_model, folder)
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 64}))
    assert str(folder) in refused(load_model, folder)


def test_tokenizers(folder):
    assert "has no tokenizer" in refused(load_tokenizer, folder)
    tiny_tokenizer().save_pretrained(folder)
    assert load_tokenizer(folder)("a").input_ids == tiny_tokenizer()("a").input_ids


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shards", ["10GB", "30KB"])
def test_a_config_that_names_no_dtype(tmp_path, dtype, shards):
    tiny_model().to(dtype).save_pretrained(tmp_path, max_shard_size=shards)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["dtype"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert checkpoint_dtype(load_config(tmp_path)) == load_model(tmp_path).dtype == dtype


def test_a_config_alone_that_names_no_dtype(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 2}))
    assert checkpoint_dtype(load_config(tmp_path)) == torch.float32
