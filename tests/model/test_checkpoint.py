"""Pruning a checkpoint's files gives what pruning the model in memory and saving it gives."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, tiny_config, tiny_model
from tiny_tokenizer import tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3ForConditionalGeneration

from depthprune.errors import UserError
from depthprune.model.checkpoint import prune_files
from depthprune.model.engine_fields import PERIODS
from depthprune.model.loading import load_model
from depthprune.model.surgery import remove_layers
from depthprune.model.verify import verify


def tensors(folder) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same_tensors(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]), name


def refused(*args) -> str:
    with pytest.raises(UserError) as refusal:
        prune_files(*args)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_files_are_those_of_the_pruned_model(family, tmp_path):
    tiny_model(family).save_pretrained(tmp_path / "whole", max_shard_size="60KB")
    remove_layers(tiny_model(family), [1, 2, 4]).save_pretrained(tmp_path / "memory")
    prune_files(tmp_path / "whole", [1, 2, 4], tmp_path / "files")
    assert_same_tensors(tensors(tmp_path / "files"), tensors(tmp_path / "memory"))
    saved, meant = (AutoConfig.from_pretrained(tmp_path / name).to_dict() for name in ("files", "memory"))
    for_others = PERIODS.keys() | {"rope_theta", "partial_rotary_factor", "_name_or_path"}
    assert {k: v for k, v in saved.items() if k not in for_others} == {
        k: v for k, v in meant.items() if k not in for_others
    }


def test_a_sharded_model_comes_out_in_as_few_files_as_it_fills(tmp_path):
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path / "whole", max_shard_size="30KB")
    assert len(list((tmp_path / "whole").glob("*.safetensors"))) > 1
    prune_files(tmp_path / "whole", [0, 5], tmp_path / "files")
    assert [path.name for path in (tmp_path / "files").glob("model*")] == ["model.safetensors"]
    verify(tmp_path / "files")


def test_small_files_come_along_and_the_card_and_other_weights_do_not(tmp_path):
    whole = tmp_path / "whole"
    tiny_model(vocab_size=len(tiny_tokenizer())).save_pretrained(whole)
    tiny_tokenizer().save_pretrained(whole)
    for name in ("README.md", "pytorch_model.bin", "chat_template.jinja"):
        (whole / name).write_text("x")
    prune_files(whole, [2], tmp_path / "files")
    names = {path.name for path in (tmp_path / "files").iterdir()}
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= names
    assert not {"README.md", "pytorch_model.bin"} & names
    verify(tmp_path / "files")


def test_a_checkpoint_with_other_names_on_disk(tmp_path):
    model = tiny_model("gpt2")
    model.save_pretrained(tmp_path / "whole")
    old_style = {name.removeprefix("transformer."): t for name, t in tensors(tmp_path / "whole").items()}
    save_file(old_style, tmp_path / "whole" / "model.safetensors", metadata={"format": "pt"})
    prune_files(tmp_path / "whole", [1], tmp_path / "files")
    assert "h.4.ln_1.weight" in tensors(tmp_path / "files")
    assert_same_tensors(load_model(tmp_path / "files").state_dict(), remove_layers(model, [1]).state_dict())


def test_layers_for_speculative_decoding_go(tmp_path):
    tiny_model("deepseek_v3").save_pretrained(tmp_path / "whole")
    extra = {**tensors(tmp_path / "whole"), "model.layers.6.eh_proj.weight": torch.zeros(32, 64)}
    save_file(extra, tmp_path / "whole" / "model.safetensors", metadata={"format": "pt"})
    prune_files(tmp_path / "whole", [1], tmp_path / "files")
    assert not any("eh_proj" in name for name in tensors(tmp_path / "files"))
    assert AutoConfig.from_pretrained(tmp_path / "files").num_nextn_predict_layers == 0
    verify(tmp_path / "files")


def test_only_the_language_model_of_a_multimodal_one_loses_layers(tmp_path):
    text = tiny_config("gemma3_text").to_dict()
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = AutoConfig.for_model(
        "gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4,
        boi_token_index=125, eoi_token_index=126, image_token_index=127,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "whole")
    before = {name for name in tensors(tmp_path / "whole") if "vision" in name}
    prune_files(tmp_path / "whole", [0, 2], tmp_path / "files")
    after = AutoConfig.from_pretrained(tmp_path / "files")
    assert (after.text_config.num_hidden_layers, after.vision_config.num_hidden_layers) == (4, 6)
    assert {name for name in tensors(tmp_path / "files") if "vision" in name} == before
    pruned = AutoModelForCausalLM.from_pretrained(tmp_path / "files")
    assert_same_tensors(pruned.state_dict(), remove_layers(model, [0, 2]).state_dict())


def test_bad_input_is_refused_and_nothing_is_left(tmp_path):
    whole, output = tmp_path / "whole", tmp_path / "files"
    tiny_model().save_pretrained(whole)
    assert "layer 6 is not there" in refused(whole, [6], output)
    assert "all 6 layers" in refused(whole, list(range(6)), output)
    assert "not a folder" in refused("org/name", [1], output)
    assert "is not there" in refused(tmp_path / "nowhere", [1], output)
    path = whole / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-8])
    assert "is torn" in refused(whole, [1], output)
    path.unlink()
    assert "has no model.safetensors" in refused(whole, [1], output)
    path.write_bytes(content)
    (whole / "config.json").rename(whole / "elsewhere.json")
    assert "has no config.json" in refused(whole, [1], output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole"]


def test_what_lies_in_the_output_is_left_alone(tmp_path):
    tiny_model().save_pretrained(tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "files")
    assert "is not empty" in refused(tmp_path / "whole", [1], tmp_path / "files")
    assert_same_tensors(tensors(tmp_path / "files"), tensors(tmp_path / "whole"))
    prune_files(tmp_path / "whole", [1], tmp_path / "new" / "files")
    verify(tmp_path / "new" / "files")


def test_a_family_whose_config_cannot_say_it_is_refused(tmp_path):
    tiny_model("diffllama").save_pretrained(tmp_path / "whole")
    assert "layers that could go: 5" in refused(tmp_path / "whole", [1], tmp_path / "files")


@pytest.mark.parametrize(
    "missing", ["lm_head.weight", "model.norm.weight", "model.layers.4.mlp.up_proj.weight"]
)
def test_a_checkpoint_without_one_of_its_weights_is_refused(tmp_path, missing):
    tiny_model().save_pretrained(tmp_path / "whole")
    found = tensors(tmp_path / "whole")
    del found[missing]
    save_file(found, tmp_path / "whole" / "model.safetensors", {"format": "pt"})
    assert f"{missing} is missing" in refused(tmp_path / "whole", [1], tmp_path / "files")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole"]


def test_a_checkpoint_of_other_shapes_is_refused(tmp_path):
    tiny_model(intermediate_size=64).save_pretrained(tmp_path / "whole")
    tiny_model().config.save_pretrained(tmp_path / "whole")
    assert "has another shape" in refused(tmp_path / "whole", [1], tmp_path / "files")


def test_a_tied_checkpoint_needs_no_head(tmp_path):
    tiny_model(tie_word_embeddings=True).save_pretrained(tmp_path / "whole")
    assert "lm_head.weight" not in tensors(tmp_path / "whole")
    prune_files(tmp_path / "whole", [1], tmp_path / "files")
    verify(tmp_path / "files")


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "of-its-own"

class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_a_model_with_its_own_code(tmp_path):
    whole = tmp_path / "whole"
    tiny_model().save_pretrained(whole)
    (whole / "own.py").write_text(CODE)
    config = json.loads((whole / "config.json").read_text())
    code = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (whole / "config.json").write_text(json.dumps(config | {"model_type": "of-its-own", "auto_map": code}))
    assert "--trust-remote-code" in refused(whole, [1], tmp_path / "files")
    prune_files(whole, [1], tmp_path / "files", trust_remote_code=True)
    assert load_model(tmp_path / "files", trust_remote_code=True).config.num_hidden_layers == 5
    verify(tmp_path / "files", trust_remote_code=True)
    with pytest.raises(UserError, match="--trust-remote-code"):
        verify(tmp_path / "files")
