"""What is made from a base is written as the base is: its files, and its config but for what changed."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, tiny_config, tiny_model
from tiny_tokenizer import CHAT_TEMPLATE, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Gemma3ForConditionalGeneration

import depthprune
from depthprune.errors import UserError
from depthprune.model.base_config import as_json
from depthprune.model.base_files import other_files, set_chat_template
from depthprune.model.checkpoint import prune_files
from depthprune.model.faults import tensor_fault
from depthprune.model.loading import load_model
from depthprune.model.surgery import remove_layers
from depthprune.model.verify import save_pruned, verify

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def config_of(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


def rewrite(folder: Path, without=(), **changes) -> None:
    content = {key: value for key, value in config_of(folder).items() if key not in without}
    (folder / "config.json").write_text(json.dumps(content | changes))


def hub_style(folder: Path, scaling: dict | None = None) -> Path:
    """A Llama whose config is as on the hub: in transformers 4's fields, in an order of its own."""
    tiny_model(vocab_size=len(tiny_tokenizer())).to(torch.bfloat16).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    rewrite(
        folder,
        without=("rope_parameters", "dtype", "layer_types"),
        rope_theta=500000.0,
        rope_scaling=scaling,
        torch_dtype="bfloat16",
        transformers_version="4.44.0",
        a_field_of_ours={"é": 1},
    )
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}'
    )
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "eos_token_id": [2, 5]}')
    return folder


@pytest.mark.parametrize("scaling", [None, LLAMA3])
def test_only_the_number_of_layers_changes(scaling, tmp_path):
    base = hub_style(tmp_path / "base", scaling)
    model = remove_layers(load_model(base), [1, 4])
    save_pruned(model, tmp_path / "saved")
    before, after = config_of(base), config_of(tmp_path / "saved")
    assert list(after) == list(before)
    assert after == {**before, "num_hidden_layers": 4}
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (base / name).read_bytes()
    prune_files(base, [1, 4], tmp_path / "files")
    assert (tmp_path / "files" / "config.json").read_bytes() == (
        tmp_path / "saved" / "config.json"
    ).read_bytes()
    assert {path.name for path in (tmp_path / "files").iterdir()} == {
        path.name for path in (tmp_path / "saved").iterdir()
    }
    assert tensor_fault(load_model(tmp_path / "files"), load_model(tmp_path / "saved")) is None


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_saved_as_its_files_are_pruned(family, tmp_path):
    tiny_model(family).save_pretrained(tmp_path / "base")
    model = remove_layers(load_model(tmp_path / "base"), [1, 2, 4])
    save_pruned(model, tmp_path / "saved", base=tmp_path / "base")
    prune_files(tmp_path / "base", [1, 2, 4], tmp_path / "files")
    assert config_of(tmp_path / "saved") == config_of(tmp_path / "files")
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == (
        load_file(tmp_path / "files" / "model.safetensors").keys()
    )


def test_a_changed_dtype_is_written_in_the_bases_spelling(tmp_path):
    base = hub_style(tmp_path / "base")
    save_pruned(load_model(base, "float32"), tmp_path / "saved")
    assert config_of(tmp_path / "saved") == {**config_of(base), "torch_dtype": "float32"}
    assert load_model(tmp_path / "saved").dtype == torch.float32


def test_a_changed_vocabulary_is_written(tmp_path):
    base = hub_style(tmp_path / "base")
    model = load_model(base)
    model.resize_token_embeddings(140)
    save_pruned(model, tmp_path / "saved")
    assert config_of(tmp_path / "saved") == {**config_of(base), "vocab_size": 140}


def test_what_training_sets_for_its_own_time_is_not_written(tmp_path):
    base = hub_style(tmp_path / "base")
    model = load_model(base)
    model.config.use_cache, model.config.pad_token_id, model.generation_config.pad_token_id = False, 7, 7
    save_pruned(model, tmp_path / "saved")
    assert config_of(tmp_path / "saved") == config_of(base)


def test_the_spelling_of_a_family_that_has_two_is_kept(tmp_path):
    tiny_model("gpt2").save_pretrained(tmp_path / "base")
    rewrite(tmp_path / "base", without=("n_layer",), num_hidden_layers=6)
    save_pruned(remove_layers(load_model(tmp_path / "base"), [0]), tmp_path / "saved")
    assert config_of(tmp_path / "saved")["num_hidden_layers"] == 5
    assert "n_layer" not in config_of(tmp_path / "saved")


def test_the_language_model_of_a_multimodal_base(tmp_path):
    text = tiny_config("gemma3_text").to_dict()
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4,
              "image_size": 28, "patch_size": 14}  # fmt: skip
    config = AutoConfig.for_model(
        "gemma3", text_config=text, vision_config=vision, mm_tokens_per_image=4,
        boi_token_index=125, eoi_token_index=126, image_token_index=127,
    )  # fmt: skip
    torch.manual_seed(0)
    Gemma3ForConditionalGeneration(config).save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "preprocessor_config.json").write_text('{"size": 28}')
    model = remove_layers(load_model(tmp_path / "base"), [0, 2])
    save_pruned(model, tmp_path / "saved")
    before, after = config_of(tmp_path / "base"), config_of(tmp_path / "saved")
    assert after["vision_config"] == before["vision_config"]
    assert after["text_config"]["num_hidden_layers"] == 4
    assert (tmp_path / "saved" / "preprocessor_config.json").is_file()
    verify(tmp_path / "saved")


def test_a_base_in_the_newest_spelling_gets_the_classic_rotary_fields_beside(tmp_path):
    tiny_model(rope_parameters={"rope_theta": 500000.0, **LLAMA3}).save_pretrained(tmp_path / "base")
    save_pruned(remove_layers(load_model(tmp_path / "base"), [0]), tmp_path / "saved")
    after = config_of(tmp_path / "saved")
    assert after["rope_theta"] == 500000.0 and after["rope_scaling"] == LLAMA3
    assert after["rope_parameters"] == config_of(tmp_path / "base")["rope_parameters"]
    read, meant = (AutoConfig.from_pretrained(tmp_path / name) for name in ("saved", "base"))
    assert read.rope_parameters == meant.rope_parameters


@pytest.mark.parametrize("removed, period", [([0, 3], 2), ([0], None), ([2, 5], 5), ([1, 2, 4, 5], 3)])
def test_a_period_says_what_the_list_of_kinds_says_or_nothing(removed, period, tmp_path):
    tiny_model("gemma3_text").save_pretrained(tmp_path / "base")
    rewrite(tmp_path / "base", sliding_window_pattern=3)
    prune_files(tmp_path / "base", removed, tmp_path / "files")
    save_pruned(remove_layers(load_model(tmp_path / "base"), removed), tmp_path / "saved")
    for folder in (tmp_path / "files", tmp_path / "saved"):
        found = config_of(folder)
        assert found["sliding_window_pattern"] == period
        kinds = [kind == "full_attention" for kind in found["layer_types"]]
        if period:
            assert kinds == [(i + 1) % period == 0 for i in range(len(kinds))]


def test_layers_for_speculative_decoding_that_are_not_saved_are_not_claimed(tmp_path):
    base = tmp_path / "base"
    tiny_model("deepseek_v3").save_pretrained(base)
    extra = {**load_file(base / "model.safetensors"), "model.layers.6.eh_proj.weight": torch.zeros(32, 64)}
    save_file(extra, base / "model.safetensors", metadata={"format": "pt"})
    rewrite(base, num_nextn_predict_layers=1)
    save_pruned(load_model(base), tmp_path / "saved")
    assert config_of(tmp_path / "saved") == {
        **config_of(base),
        "num_nextn_predict_layers": 0,
        **classic(base),
    }


def classic(base: Path) -> dict:
    return {"rope_theta": config_of(base)["rope_parameters"]["rope_theta"]}


def test_tied_embeddings_that_differ_in_the_files_are_said_to_be_two(tmp_path):
    base = tmp_path / "base"
    tiny_model(tie_word_embeddings=True).save_pretrained(base)
    same = load_file(base / "model.safetensors")
    same["lm_head.weight"] = same["model.embed_tokens.weight"].clone()
    save_file(same, base / "model.safetensors", metadata={"format": "pt"})
    prune_files(base, [1], tmp_path / "tied")
    assert config_of(tmp_path / "tied")["tie_word_embeddings"] is True
    save_file({**same, "lm_head.weight": torch.randn(128, 32)}, base / "model.safetensors", {"format": "pt"})
    prune_files(base, [1], tmp_path / "files")
    save_pruned(remove_layers(load_model(base), [1]), tmp_path / "saved")
    for folder in (tmp_path / "files", tmp_path / "saved"):
        assert config_of(folder)["tie_word_embeddings"] is False
        assert "lm_head.weight" in load_file(folder / "model.safetensors")


def test_every_other_file_comes_along_but_what_speaks_of_the_whole_model(tmp_path):
    base = hub_style(tmp_path / "base")
    along = ["LICENSE", "preprocessor_config.json", "additional_chat_templates/rag.jinja", "assets/logo.txt"]
    left = ["README.md", ".gitattributes", ".cache/x", "pytorch_model.bin", "pytorch_model.bin.index.json",
            "model.gguf", "onnx/config.json", "original/params.json", "checkpoint-5/optimizer.pt",
            "checkpoint-5/trainer_state.json", "depthprune/plan.json", "out/depthprune/x",
            "out/config.json"]  # fmt: skip
    for name in (*along, *left):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_text("x")
    found = {str(file.relative_to(base)) for file in other_files(base)}
    assert found == {*along, "generation_config.json", "tokenizer.json", "tokenizer_config.json",
                     "chat_template.jinja"}  # fmt: skip
    prune_files(base, [0], tmp_path / "files")
    save_pruned(load_model(base), tmp_path / "saved")
    for folder in (tmp_path / "files", tmp_path / "saved"):
        written = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
        assert written == {*found, "config.json", "model.safetensors"}


@pytest.mark.parametrize("place", ["jinja", "string", "list", "folder", "nowhere"])
def test_a_new_chat_template_takes_the_place_of_the_default_and_named_ones_stay(place, tmp_path):
    tokenizer = tiny_tokenizer(chat_template=place != "nowhere")
    if place == "folder":
        tokenizer.chat_template = {"default": CHAT_TEMPLATE, "rag": "RAG", "tool_use": "TOOLS"}
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    if place in ("string", "list"):
        (tmp_path / "chat_template.jinja").unlink()
        given = {"default": CHAT_TEMPLATE, "rag": "RAG", "tool_use": "TOOLS"}
        named = [{"name": name, "template": template} for name, template in given.items()]
        settings["chat_template"] = CHAT_TEMPLATE if place == "string" else named
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    set_chat_template(tmp_path, "NEW")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    turn = [{"role": "user", "content": "hi"}]
    assert tokenizer.apply_chat_template(turn, tools=[{"name": "f"}], tokenize=False) == "NEW"
    found = tokenizer.chat_template
    assert found == ({"default": "NEW", "rag": "RAG"} if place in ("list", "folder") else "NEW")


def test_another_base_is_refused_and_so_is_none(tmp_path):
    tiny_model("qwen3").save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="the model is a llama and its base a qwen3"):
        depthprune.save_pruned(tiny_model(), tmp_path / "saved", base=tmp_path / "other")
    with pytest.raises(UserError, match="name the base"):
        depthprune.save_pruned(tiny_model(), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_a_config_that_is_read_alike_is_not_touched(tmp_path):
    base = hub_style(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    assert "rope_parameters" in as_json(model.config)
    save_pruned(model, tmp_path / "saved")
    assert config_of(tmp_path / "saved") == config_of(base)


def test_a_base_on_the_hub_is_read_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    repo = tmp_path / "cache" / "models--org--name"
    base = hub_style(repo / "snapshots" / ("0" * 40))
    (base / "LICENSE").write_text("x")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    model = remove_layers(load_model("org/name"), [0])
    save_pruned(model, tmp_path / "saved")
    assert config_of(tmp_path / "saved") == {**config_of(base), "num_hidden_layers": 5}
    assert (tmp_path / "saved" / "LICENSE").read_text() == "x"
