"""Model folders that are not what they seem: every verb says so in one line, and writes nothing."""

import json

import pytest
import torch
from calling import SMALL, refused, run_arguments
from safetensors.torch import load_file, save_file


def every_verb(model="model", score_too=True):
    data = [f"--model={model}", "--train=train.jsonl", "--output=out"]
    verbs = [
        run_arguments(model=model),
        [*run_arguments(model=model), "--dry-run"],
        ["run", "reverse", *data, "training.method=none"],
        ["train", *data, *SMALL],
        ["prune", f"--model={model}", "--remove=1", "--output=out"],
        ["evaluate", f"--model={model}", "--eval=test.jsonl"],
        ["verify", model],
    ]
    scores = [["score", "gradpruner", *data], ["inspect", model]]
    return verbs + scores if score_too else verbs


def change_config(lab, **changes):
    path = lab / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(lab, change):
    path = lab / "model" / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def test_an_adapter_beside_a_whole_model(cli, lab):
    (lab / "model" / "adapter_config.json").write_text('{"base_model_name_or_path": "org/other"}')
    (lab / "model" / "adapter_model.safetensors").write_bytes(b"")
    for arguments in every_verb():
        assert "a whole model and an adapter" in refused(cli, lab, *arguments)


@pytest.mark.parametrize(
    "changes",
    [{"num_hidden_layers": 10**6}, {"hidden_act": "none"}, {"n_layer": 10**9}, {"num_attention_heads": 0}],
)
def test_configs_of_which_nothing_can_be_built(cli, lab, changes):
    change_config(lab, **changes)
    for arguments in every_verb():
        refused(cli, lab, *arguments)


def test_weights_without_a_head_of_other_shapes_or_kinds(cli, lab):
    path = lab / "model" / "model.safetensors"
    whole = path.read_bytes()
    name = "model.layers.4.mlp.up_proj.weight"
    for change, said in [
        (lambda tensors: tensors.pop("lm_head.weight"), "lm_head.weight is missing"),
        (lambda tensors: tensors.update({name: tensors[name].T.contiguous()}), "has another shape"),
        (lambda tensors: tensors.update({name: tensors[name].to(torch.int16)}), "is stored as I16"),
    ]:
        change_weights(lab, change)
        verbs = every_verb(score_too=False)
        for arguments in verbs:
            if not (said.startswith("is stored") and arguments[0] == "evaluate"):
                assert said in refused(cli, lab, *arguments), arguments
        path.write_bytes(whole)


def test_headers_that_safetensors_refuses(cli, lab):
    path = lab / "model" / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["model.norm.weight"]["data_offsets"] = [-128, 0]
    encoded = json.dumps(header).encode()
    path.write_bytes(len(encoded).to_bytes(8, "little") + encoded + content[8 + length :])
    for arguments in every_verb(score_too=False):
        assert "model.norm.weight" in refused(cli, lab, *arguments)


@pytest.mark.parametrize(
    "method",
    ["gptq", "awq", "compressed-tensors", "fp8", "mxfp4", "bitsandbytes", "modelopt", "of-tomorrow"],
)
def test_a_quantised_base_is_refused_where_weights_must_be_written(cli, lab, method):
    change_config(lab, quantization_config={"quant_method": method, "bits": 4, "load_in_4bit": True})
    verbs = every_verb(score_too=False)
    for arguments in verbs[:4]:
        line = refused(cli, lab, *arguments)
        assert "is quantised" in line and "depthprune prune" in line
    code, _, err = cli(*verbs[4])
    assert code == 0, err


def test_hf_quant_config_beside_a_model(cli, lab):
    (lab / "model" / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "FP8"}}')
    assert "is quantised (hf_quant_config.json)" in refused(cli, lab, *run_arguments())


def test_layer_lists_without_end(cli, lab):
    for remove in ("0-99999999999", "9" * 5000, "1-" + "9" * 5000, "0-9999"):
        assert "layer" in refused(cli, lab, "prune", "--model=model", f"--remove={remove}", "--output=out")
    for protect in ("0-99999999999", "9" * 5000, "[" * 5000, "&a [*a]", "{a: 1}"):
        refused(cli, lab, *run_arguments(), f"selection.protect={protect}")
