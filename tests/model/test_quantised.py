"""Each kept module of a quantised checkpoint is quantised after the cut as it was before."""

import fnmatch
import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.quantizers.quantizers_utils import should_convert_module

from depthprune.errors import UserError
from depthprune.model.checkpoint import prune_files
from depthprune.model.loading import load_config, load_model
from depthprune.model.quantised import check_not_quantised, quantisation
from depthprune.model.quantised_layers import Renumbering

LAYERS = 14
KEPT = (0, 1, 3, 4, 7, 8, 9, 10, 12, 13)
PATH = "model.layers."
LINEARS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
NAMES = frozenset(
    ["lm_head", "model", "model.embed_tokens", "model.layers", "vision.encoder.layers.3.mlp.up_proj"]
    + [f"{PATH}{i}{part}" for i in range(LAYERS) for part in ("", ".mlp", *(f".{name}" for name in LINEARS))]
)


def moved(name):
    found = re.fullmatch(r"model\.layers\.(\d+)(.*)", name)
    if not found:
        return name
    return f"{PATH}{KEPT.index(int(found[1]))}{found[2]}" if int(found[1]) in KEPT else None


def mended(value):
    return Renumbering(NAMES, (PATH,), KEPT).mended(value, "config.json")


def same_before_and_after(means):
    """`means(name)` of each module, before and after."""
    before, after = means
    for name in NAMES:
        if (new := moved(name)) is not None:
            assert before(name) == after(new), name


SKIPPED = [
    ["lm_head"],
    ["model.layers.0", "model.layers.12.mlp", "lm_head"],
    ["model.layers.2", "model.layers.5.mlp"],
    ["layers.3.mlp", "layers.1.self_attn.q_proj"],
    ["mlp.down_proj", "model.layers.13"],
    [r"model.layers.\d+.mlp"],
]


@pytest.mark.parametrize("key", ["llm_int8_skip_modules", "modules_to_not_convert"])
@pytest.mark.parametrize("skipped", SKIPPED)
def test_modules_that_transformers_leaves_alone(key, skipped):
    after = mended({"quant_method": "x", key: skipped})[key]
    same_before_and_after(
        [lambda name: should_convert_module(name, skipped), lambda name: should_convert_module(name, after)]
    )


DYNAMIC = [
    {r"+:.*\.12\..*": {"bits": 8}, r"-:model\.layers\.0\..*": {}},
    {r"-:model\.layers\.(0|1|2)\.mlp.*": {}},
    {r".*layers\.1[0-3]\..*": {"bits": 8}, r"+:.*layers\.\d\.mlp\.up_proj": {"bits": 2}},
    {r"-:.*\.(2|5|6)\..*": {}, r"+:.*down_proj": {"bits": 8}},
    {r"-:lm_head": {}, r"+:model\.layers\.7\.mlp\.(up|gate)_proj$": {"group_size": 32}},
    {r"-:.*mlp.*": {}},
]


def settings(dynamic, name):
    """As GPTQModel looks them up: the first pattern that fits."""
    for pattern, value in dynamic.items():
        if re.match(re.sub(r"^[+-]:", "", pattern), name):
            return pattern[:1] == "-" or value
    return None


@pytest.mark.parametrize("dynamic", DYNAMIC)
def test_patterns_of_gptq(dynamic):
    after = mended({"dynamic": dynamic})["dynamic"]
    same_before_and_after([lambda name: settings(dynamic, name), lambda name: settings(after, name)])


IGNORED = [
    ["lm_head", "model.layers.3.mlp.up_proj", "model.layers.5.mlp.up_proj"],
    ["re:.*layers\\.(0|1|13)\\..*", "re:vision.*", "re:.*lm_head"],
    ["re:model\\.layers\\.12\\.mlp\\..*", "Linear"],
    ["re:.*mlp.gate$"],
    ["re:.*layers.1..*up_proj"],
]


def means(entries, name):
    """As compressed-tensors reads them."""
    return any(re.match(e[3:], name) if e.startswith("re:") else e == name for e in entries)


@pytest.mark.parametrize("ignored", IGNORED)
def test_names_and_patterns_of_compressed_tensors(ignored):
    before = {
        "ignore": ignored,
        "config_groups": {"group_0": {"targets": ignored, "weights": {"num_bits": 4}}},
    }
    after = mended(before)
    assert after["config_groups"]["group_0"]["weights"] == {"num_bits": 4}
    for found in (after["ignore"], after["config_groups"]["group_0"]["targets"]):
        same_before_and_after([lambda name: means(ignored, name), lambda name, f=found: means(f, name)])


@pytest.mark.parametrize(
    "excluded",
    [
        ["lm_head", "model.layers.0.self_attn*", "model.layers.12.self_attn*"],
        ["model.layers.1*"],
        ["*layers.7.*", "*.mlp.gate_proj"],
        ["model.layers.?.mlp*", "model.layers.[2-6]*"],
    ],
)
def test_wildcards_of_modelopt(excluded):
    after = mended({"exclude_modules": excluded})["exclude_modules"]

    def left_out(entries, name):
        return any(fnmatch.fnmatchcase(name, entry) for entry in entries)

    same_before_and_after([lambda name: left_out(excluded, name), lambda name: left_out(after, name)])


def test_settings_by_name_move_with_their_layers():
    before = {
        "quantized_layers": {f"{PATH}{i}.mlp.up_proj": {"quant_algo": f"W{i}"} for i in range(LAYERS)},
        "bits": 4,
        "weight_block_size": [128, 128],
        "lm_head": {"bits": 8},
    }
    after = mended(before)
    assert after["quantized_layers"] == {
        f"{PATH}{new}.mlp.up_proj": {"quant_algo": f"W{old}"} for new, old in enumerate(KEPT)
    }
    assert {key: after[key] for key in ("bits", "weight_block_size", "lm_head")} == {
        key: before[key] for key in ("bits", "weight_block_size", "lm_head")
    }


@pytest.mark.parametrize(
    "value",
    [
        {"bits_per_layer": [4] * LAYERS},
        {"layers": {"0": {"bits": 4}}},
        {"block_name_to_quantize": "model.layers.0,model.layers.1"},
        {"modules_to_not_convert": ["12.mlp"]},
        {"dynamic": {r"-:((a+)+)+\.1": {}}},
        {"ignore": ["re:.*layers.(1"]},
    ],
)
def test_what_no_rule_can_say_is_refused_by_name(value):
    with pytest.raises(UserError, match=r"config.json: .* names layers in"):
        mended(value)


def test_an_experts_number_is_not_a_layers():
    names = NAMES | {f"{PATH}{i}.mlp.experts.{e}.up_proj" for i in range(LAYERS) for e in range(4)}
    found = Renumbering(names, (PATH,), KEPT).mended({"ignore": [f"{PATH}3.mlp.experts.2.up_proj"]}, "x")
    assert found == {"ignore": [f"{PATH}2.mlp.experts.2.up_proj"]}


@pytest.fixture(scope="module")
def four_bits(tmp_path_factory):
    """A Llama of which layers 1 and 3 are in NF4, the rest plain."""
    whole, folder = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("four-bits")
    tiny_model(hidden_size=64, intermediate_size=64).save_pretrained(whole)
    skipped = ["lm_head", *(f"model.layers.{i}" for i in (0, 2, 4, 5))]
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=skipped)
    AutoModelForCausalLM.from_pretrained(whole, quantization_config=config).save_pretrained(folder)
    return folder


def test_a_quantised_checkpoint_is_cut_on_files(four_bits, tmp_path):
    prune_files(four_bits, [0, 4], tmp_path / "cut")
    config = load_config(tmp_path / "cut").quantization_config
    assert config["llm_int8_skip_modules"] == ["lm_head", "model.layers.1", "model.layers.3"]
    probe = torch.arange(3, 13)[None]
    cut, whole = load_model(tmp_path / "cut"), load_model(four_bits)
    del whole.model.layers[4], whole.model.layers[0]
    assert torch.equal(cut(probe, use_cache=False).logits, whole(probe, use_cache=False).logits)


def test_files_beside_config_json_follow(tmp_path):
    tiny_model().save_pretrained(tmp_path / "whole")
    beside = {"quantization": {"exclude_modules": ["model.layers.4.mlp*"], "kv_cache_quant_algo": "FP8"}}
    (tmp_path / "whole" / "hf_quant_config.json").write_text(json.dumps(beside))
    prune_files(tmp_path / "whole", [1], tmp_path / "cut")
    found = json.loads((tmp_path / "cut" / "hf_quant_config.json").read_text())
    assert found["quantization"]["exclude_modules"] == ["model.layers.3.mlp*"]
    assert quantisation(load_config(tmp_path / "cut"), tmp_path / "cut") == "hf_quant_config.json"
    (tmp_path / "whole" / "hf_quant_config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        prune_files(tmp_path / "whole", [1], tmp_path / "other")
    assert not (tmp_path / "other").exists()


def as_gptq(folder, **more):
    """A checkpoint that looks like GPTQ's: other tensors in place of the layers' weights."""
    model = tiny_model()
    model.save_pretrained(folder)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if "_proj.weight" in name]:
        tensors[name.replace("weight", "qweight")] = tensors.pop(name).to(torch.int32)
    for name in more.get("without", ()):
        del tensors[name]
    tensors |= more.get("changed", {})
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "dynamic": more.get("dynamic", {})}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_checkpoint_whose_quantiser_is_not_installed(tmp_path):
    folder = as_gptq(tmp_path / "whole", dynamic={r"-:model\.layers\.3\..*": {}})
    prune_files(folder, [1], tmp_path / "cut")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    name = "model.layers.{}.mlp.up_proj.qweight"
    assert torch.equal(before[name.format(4)], after[name.format(3)])
    assert load_config(tmp_path / "cut").quantization_config["dynamic"] == {r"-:model\.layers\.2\..*": {}}


def test_a_quantised_checkpoint_that_does_not_fit(tmp_path):
    without = as_gptq(tmp_path / "without", without=["lm_head.weight"])
    with pytest.raises(UserError, match=r"lm_head.weight is missing"):
        prune_files(without, [1], tmp_path / "cut")
    other = as_gptq(tmp_path / "other", changed={"model.norm.weight": torch.ones(16)})
    with pytest.raises(UserError, match=r"model.norm.weight has another shape"):
        prune_files(other, [1], tmp_path / "cut")


def test_where_weights_are_needed_a_quantised_base_is_refused(tmp_path):
    folder = as_gptq(tmp_path)
    with pytest.raises(UserError, match=r"is quantised \(gptq\), and training writes weights"):
        check_not_quantised(load_config(folder), folder, "training writes weights")
    check_not_quantised(tiny_model().config, "some/model", "training writes weights")
