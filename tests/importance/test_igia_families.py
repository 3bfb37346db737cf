import pytest
import torch
from peft.tuners.lora.layer import LoraLayer
from safetensors.torch import load_file
from scoring_run import record
from tiny import tiny_model

from depthprune.importance.factors import find_adapters, mean_squared_gradient
from depthprune.model.anatomy import decoder_layers, layers_path, linear_weights

FAMILIES = ["llama", "gpt2", "qwen3_moe", "gpt_oss", "mixtral", "llama4_text"]


def scored(family, folder):
    """A recorder after 4 steps on a tiny model, and the PeftModel that it saw."""
    model = tiny_model(family, layers=4)
    recorder, trainer, _ = record(model, folder.parent, steps=4)
    return recorder, trainer.model


def peft_products(model, folder):
    """Σ_i (∇B_i·∇A_i)²/t of every adapter by PEFT's own hand: its delta, gradients in place of weights."""
    adapters = find_adapters(model)
    total = {}
    files = sorted(folder.iterdir())
    for file in files:
        step = load_file(file)
        for path, adapter in adapters.items():
            adapter.lora_A["default"].weight.data = step[f"{path}.lora_A"]
            adapter.lora_B["default"].weight.data = step[f"{path}.lora_B"]
            delta = adapter.get_delta_weight("default").detach().double() / adapter.scaling["default"]
            total[path] = total.get(path, 0) + delta**2 / len(files)
    return total


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_matrices_equal_those_of_pefts_own_product(tmp_path, family):
    folder = tmp_path / "gradients"
    folder.mkdir()
    recorder, model = scored(family, folder)
    products = peft_products(model, folder)
    prefix = f"{layers_path(model)}."
    scores = torch.zeros(4, dtype=torch.float64)
    for path, product in products.items():
        scores[int(path.removeprefix(prefix).split(".")[0])] += product.sum()
        experts = len(product) if product.ndim == 3 else None
        found = mean_squared_gradient(folder, path, experts).double()
        stored_in_out = family == "gpt2" or (family == "gpt_oss" and "experts" in path)
        found = found.mT if stored_in_out else found
        torch.testing.assert_close(found, product, rtol=1e-4, atol=1e-5 * float(product.max()))
    torch.testing.assert_close(recorder.scores().double(), scores, rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_and_stacked_expert_of_the_layers_is_scored_by_its_path(tmp_path, family):
    folder = tmp_path / "gradients"
    folder.mkdir()
    recorder, adapted = scored(family, folder)
    plain = tiny_model(family, layers=4)
    expected = {
        f"{layers_path(plain)}.{i}.{name.removesuffix('.weight')}"
        for i, layer in enumerate(decoder_layers(plain))
        for name in linear_weights(layer)
    }
    assert recorder.scored == expected
    assert sum(isinstance(module, LoraLayer) for module in adapted.modules()) == len(expected)
