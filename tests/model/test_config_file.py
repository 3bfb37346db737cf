"""Configs that would keep transformers building for hours, or that it makes nothing of, are one line."""

import json

import pytest
from tiny import tiny_config, tiny_model

from depthprune.errors import UserError
from depthprune.model.loading import load_config, load_model
from depthprune.model.skeleton import skeleton


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path, whole):
    (tmp_path / "model.safetensors").symlink_to(whole / "model.safetensors")
    (tmp_path / "config.json").write_text((whole / "config.json").read_text())
    return tmp_path


def refused(folder, **changes) -> str:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError) as refusal:
        skeleton(load_config(folder))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 600
    return str(refusal.value)


VALUES = [None, "18", "x" * 10_000, 18.5, True, 0, -1, 10**6, 10**30, [], {}, float("nan"), float("inf")]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value)[:20])
def test_depths_that_are_none(folder, value):
    refused(folder, num_hidden_layers=value)


@pytest.mark.parametrize("field", ["hidden_size", "vocab_size", "num_attention_heads", "hidden_act", "dtype"])
@pytest.mark.parametrize("value", ["18", "x" * 10_000, 18.5, 10**30, [1], {"a": 1}, float("nan")])
def test_values_of_other_kinds(folder, field, value):
    refused(folder, **{field: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"n_layer": 10**9},
        {"num_labels": 10**9},
        {"vision_config": {"num_hidden_layers": 10**9}},
        {"audio_config": [{"depth": 10**9}]},
        {"num_nextn_predict_layers": 10**9},
        {"attention_types": [[["global"], 10**9]]},
        {"pad_token_id": 10**6},
        {"head_dim": 0},
    ],
)
def test_numbers_elsewhere(folder, changes):
    refused(folder, **changes)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"model_type": ' * 50_000,
        '{"a": ' + "1" * 5000 + "}",
        '{"model_type": 1}',
        "\ufeff{}",
        "1",
    ],
    ids=["lists", "objects", "digits", "a number", "a mark", "no object"],
)
def test_files_that_are_no_config(folder, text):
    (folder / "config.json").write_text(text, encoding="utf-8")
    refused_as_is(folder)


def refused_as_is(folder) -> str:
    with pytest.raises(UserError) as refusal:
        load_config(folder)
    assert "config.json" in str(refusal.value) and "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_config_without_end(folder):
    with (folder / "config.json").open("r+b") as file:
        file.truncate(2**40)
    assert "bytes long" in refused_as_is(folder)


def test_every_family_of_the_tests_and_deep_models_pass(tmp_path):
    for family, depth in [("llama", 130), ("qwen3_next", 6), ("gpt_oss", 36), ("deepseek_v3", 61)]:
        tiny_config(family, depth).save_pretrained(tmp_path)
        assert load_config(tmp_path).num_hidden_layers == depth


def test_an_adapter_beside_a_whole_model(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    for load in (load_config, load_model):
        with pytest.raises(UserError, match="a whole model and an adapter"):
            load(folder)
    (folder / "adapter_config.json").unlink()
    load_model(folder)
