import logging
import sys

import pytest
import torch
from tiny import tiny_model
from torch import nn
from tuned import SHORT, KillAt, Killed, checkpoint, tune, weights

from depthprune import UserError
from depthprune.model.anatomy import decoder_layers, linear_weights, lm_head
from depthprune.training import QLora
from depthprune.training.lora import lora_config

peft = pytest.importorskip("peft")
bitsandbytes = pytest.importorskip("bitsandbytes")
SMALL = QLora(lora_r=2, lora_alpha=6, **SHORT)


def four_bit(model: nn.Module) -> set[str]:
    return {name for name, part in model.named_modules() if isinstance(part, bitsandbytes.nn.Linear4bit)}


def test_the_linears_of_the_layers_are_nf4_and_nothing_else(tmp_path):
    start = checkpoint(tmp_path / "model")
    model = SMALL.load(start)
    layers = decoder_layers(start.load(torch.float32))
    linears = {name.removesuffix(".weight") for name in linear_weights(layers[0])}
    assert four_bit(model) == {f"model.layers.{i}.{name}" for i in range(4) for name in linears}
    assert all(
        model.get_submodule(name).weight.quant_state.quant_type == "nf4"
        and model.get_submodule(name).weight.quant_state.nested
        for name in four_bit(model)
    )
    assert type(lm_head(model)) is nn.Linear


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "qwen3_moe"])
def test_adapters_are_merged_into_the_whole_weights_exactly(tmp_path, family):
    start = checkpoint(tmp_path / "model", family)
    plain = weights(start.load(torch.float32))
    base = SMALL.load(start)
    adapted = peft.get_peft_model(base, lora_config(base, SMALL))
    generator = torch.Generator().manual_seed(0)
    factors = {}
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
            factors[name.removeprefix("base_model.model.").replace(".default.weight", "")] = parameter.data
    merged = weights(SMALL.plain(adapted, start))
    assert merged.keys() == plain.keys()
    linears = {name.removesuffix(".lora_A") for name in factors if name.endswith(".lora_A")}
    for name, weight in plain.items():
        module = name.removesuffix(".weight")
        if module in linears:
            delta = (factors[f"{module}.lora_B"] @ factors[f"{module}.lora_A"]) * (6 / 2)
            weight = weight + (delta.T if family == "gpt2" else delta)
        if "experts" not in name:
            assert torch.equal(merged[name], weight), name
        else:
            assert not torch.equal(merged[name], weight), name
    assert len(linears) >= 4 * 4


def test_training_changes_the_adapted_weights_and_no_other(tmp_path):
    start = checkpoint(tmp_path / "model", layers=2)
    before = weights(start.load(torch.float32))
    model, trains = tune(start, SMALL, tmp_path / "trainer")
    after = weights(model)
    linears = {
        f"model.layers.{i}.{name}" for i in range(2) for name in linear_weights(decoder_layers(model)[0])
    }
    assert {name for name in before if not torch.equal(before[name], after[name])} == linears
    assert trains["what"] == "adapters in layers 0–1"
    assert trains["parameters"] == sum(weight.numel() for weight in before.values())
    assert not model.config.to_dict().get("quantization_config")


def test_adapters_are_float32(tmp_path):
    """TRL casts those on a quantised base to bfloat16, which would lose small updates."""
    seen = []

    class See(KillAt):
        def on_step_end(self, args, state, control, **kwargs):
            seen.extend(p.dtype for p in kwargs["model"].parameters() if p.requires_grad)

    tune(checkpoint(tmp_path / "model", layers=1), SMALL, tmp_path / "trainer", [See(1)])
    assert set(seen) == {torch.float32}


def test_a_killed_training_ends_as_a_whole_one(tmp_path):
    start = checkpoint(tmp_path / "model", layers=2)
    whole, _ = tune(start, SMALL, tmp_path / "whole")
    with pytest.raises(Killed):
        tune(start, SMALL, tmp_path / "killed", [KillAt(3)])
    resumed, _ = tune(start, SMALL, tmp_path / "killed")
    assert all(torch.equal(weights(whole)[name], weight) for name, weight in weights(resumed).items())


def test_stacked_experts_are_left_as_they_are_and_named(caplog):
    with caplog.at_level(logging.WARNING, "depthprune"):
        QLora().check(tiny_model("mixtral", layers=1), 1)
    assert "mlp.experts.gate_up_proj" in caplog.text


def test_without_bitsandbytes_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UserError, match=r"pip install 'depthprune\[qlora\]'") as refusal:
        QLora().check(tiny_model(layers=1), 1)
    assert "\n" not in str(refusal.value)
