import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, tiny_model

from depthprune.importance.magnitude_l1 import MagnitudeL1
from depthprune.model.anatomy import decoder_layers
from depthprune.model.skeleton import skeleton
from depthprune.model.stored import stored_weights


def saved(folder, family, shard="10GB", dtype=torch.float32, **changes):
    """A tiny checkpoint, its model and its skeleton."""
    model = tiny_model(family, layers=4, **changes).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    return model, skeleton(model.config)


SIX_LAYERS = ("gemma3_text", "qwen3_next")  # their configs here name six kinds of layer


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in SIX_LAYERS])
def test_sums_over_stored_weights_are_those_of_the_model(tmp_path, family):
    model, shape = saved(tmp_path, family)
    weights = stored_weights(tmp_path, shape)
    assert weights is not None
    torch.testing.assert_close(MagnitudeL1().over(weights, 4), MagnitudeL1()(model), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_shards_are_read_one_tensor_at_a_time(tmp_path, dtype):
    model, shape = saved(tmp_path, "llama", shard="20KB", dtype=dtype)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    found = {}
    for layer, weight in stored_weights(tmp_path, shape):
        assert weight.dtype == dtype
        found.setdefault(layer, []).append(weight)
    for i, layer in enumerate(decoder_layers(model)):
        stored = sorted(float(weight.float().sum()) for weight in found[i])
        assert stored == sorted(float(weight.detach().float().sum()) for weight in layer.parameters())


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def test_layers_for_speculative_decoding_are_left_out(tmp_path):
    model, shape = saved(tmp_path, "llama")
    rewrite(tmp_path, lambda tensors: tensors.update({"model.layers.4.eh_proj.weight": torch.ones(32, 64)}))
    weights = stored_weights(tmp_path, shape)
    torch.testing.assert_close(MagnitudeL1().over(weights, 4), MagnitudeL1()(model), rtol=1e-6, atol=0)


def test_quantised_weights_have_to_be_loaded(tmp_path):
    _, shape = saved(tmp_path, "llama")
    name = "model.layers.2.mlp.up_proj.weight"
    rewrite(tmp_path, lambda tensors: tensors.update({name: tensors[name].to(torch.int8)}))
    assert stored_weights(tmp_path, shape) is None


@pytest.mark.parametrize("extra", [{"model.layers.2.mlp.scale": torch.ones(3)}, {}])
def test_tensors_that_are_no_parameters_have_to_be_loaded(tmp_path, extra):
    _, shape = saved(tmp_path, "llama")

    def change(tensors):
        tensors.update(extra)
        if not extra:
            del tensors["model.layers.1.mlp.up_proj.weight"]

    rewrite(tmp_path, change)
    assert stored_weights(tmp_path, shape) is None


def test_a_hub_id_is_read_from_its_snapshot(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--some--model"
    model, shape = saved(repository / "snapshots" / commit, "llama")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    weights = stored_weights("some/model", shape)
    torch.testing.assert_close(MagnitudeL1().over(weights, 4), MagnitudeL1()(model), rtol=1e-6, atol=0)
