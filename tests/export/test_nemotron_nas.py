"""The nemotron-nas form holds what the model holds, without what is zeros."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_config, tiny_model
from tiny_tokenizer import tiny_tokenizer

from depthprune.errors import UserError
from depthprune.export.nemotron_nas import export, ffn_mult
from depthprune.model.silence import silence
from depthprune.model.skeleton import skeleton
from depthprune.model.sublayers import layer_sides

SHAPE = {"hidden_size": 64, "intermediate_size": 512, "head_dim": 16}


def made(folder, silenced, family="llama", **changes):
    size = {**SHAPE, "vocab_size": len(tiny_tokenizer()), **changes}
    model = tiny_model(family, **size)
    if silenced:
        silence(model, silenced, layer_sides(skeleton(tiny_config(family, **size))))
    model.save_pretrained(folder, max_shard_size="300KB")
    tiny_tokenizer().save_pretrained(folder)
    return model


def test_filled_up_with_zeros_it_is_the_model_again(tmp_path):
    model = made(tmp_path / "whole", {0: ("attention",), 2: ("attention",), 3: ("mlp",), 5: ("attention",)})
    said = export(tmp_path / "whole", tmp_path / "out")
    assert said == ["attention 2 left out", "attention 5 left out", "MLP 3 256 zeros wide"]
    files = list((tmp_path / "out").glob("*.safetensors"))
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == found.keys() and len(files) > 1
    for name, meant in model.state_dict().items():
        if re.search(r"layers\.[25]\.(self_attn|input_layernorm)", name):
            assert name not in found
        elif ".3.mlp" in name:
            assert sorted(found[name].shape) == [64, 256] and not found[name].any()
        else:
            assert torch.equal(found[name], meant)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("nemotron-nas", ["DeciLMForCausalLM"])
    attentions = [block["attention"] for block in config["block_configs"]]
    assert [one["no_op"] for one in attentions] == [False, False, True, False, False, True]
    assert [one["n_heads_in_group"] for one in attentions] == [2, 2, None, 2, 2, None]
    assert config["rope_theta"] == 10000.0 and config["rope_scaling"] is None
    assert (tmp_path / "out/tokenizer.json").is_file()


def test_engines_make_the_width_that_was_meant():
    for hidden in (64, 576, 2048, 4096, 5120, 8192):
        for width in (256, 1536, 5632, 11008, 14336, 28672):
            engines = math.ceil(int(2 * round(ffn_mult(width, hidden), 6) * hidden / 3) / 256) * 256
            assert engines == width


@pytest.mark.parametrize(
    ("family", "changes", "silenced", "reason"),
    [
        ("llama", {}, {}, "nothing to leave out"),
        ("llama", {}, {0: ("attention",)}, "nothing to leave out"),
        ("llama", {"intermediate_size": 48}, {2: ("mlp",)}, "multiples of 256 wide, and these are 48"),
        ("llama", {"head_dim": 8}, {2: ("mlp",)}, "heads are"),
        ("mistral", {}, {2: ("mlp",)}, "no sliding window"),
        ("qwen3", {}, {2: ("mlp",)}, "the shape of llama and mistral"),
    ],
)
def test_what_the_form_cannot_say_is_refused_and_nothing_written(tmp_path, family, changes, silenced, reason):
    made(tmp_path / "whole", silenced, family, **changes)
    with pytest.raises(UserError, match=reason):
        export(tmp_path / "whole", tmp_path / "out")
    assert not (tmp_path / "out").exists()
