"""The verbs as a user types them: what they print, and what becomes of bad input."""

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from calling import SMALL, refused, run_arguments
from runs import LAYERS, model_folder, rows, write_jsonl
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)


def test_help_answers_without_torch():
    code = "import sys; sys.argv = ['depthprune', '--help']\nfrom depthprune.cli.verbs import main\n"
    code += "try:\n    main()\nexcept SystemExit:\n    print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


def test_no_config(cli, lab):
    (lab / "model" / "config.json").unlink()
    assert "config.json" in refused(cli, lab, *run_arguments())


def test_torn_weights(cli, lab):
    weights = lab / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "model.safetensors is torn" in refused(cli, lab, *run_arguments())


def test_a_missing_tensor(cli, lab):
    weights = lab / "model" / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.2.mlp.down_proj.weight"]
    save_file(tensors, weights, {"format": "pt"})
    assert "model.layers.2.mlp.down_proj.weight" in refused(cli, lab, *run_arguments())
    arguments = ["--model=model", "--train=train.jsonl", "--output=out"]
    assert "model.layers.2.mlp.down_proj.weight" in refused(cli, lab, "run", "reverse", *arguments)


def test_an_encoder_and_an_encoder_decoder(cli, lab):
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=50, **small)).save_pretrained(lab / "bert")
    T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=32, num_layers=2, d_ff=32, num_heads=2, d_kv=16)
    ).save_pretrained(lab / "t5")
    assert "bert" in refused(cli, lab, *run_arguments(model="bert"))
    assert "encoder-decoder" in refused(cli, lab, *run_arguments(model="t5"))


def test_a_model_that_is_not_there(cli, lab):
    assert "nowhere/at-all" in refused(cli, lab, *run_arguments(model="nowhere/at-all"))


def test_wrong_columns_name_the_row_and_what_is_there(cli, lab):
    write_jsonl(lab / "bad.jsonl", [{"prompt": "a", "completion": "b"}, {"question": "a", "answer": "b"}])
    line = refused(cli, lab, *run_arguments(train="bad.jsonl"))
    assert "bad.jsonl" in line
    assert "2" in line
    assert "question" in line
    assert "answer" in line


def test_empty_data_and_one_class(cli, lab):
    (lab / "empty.jsonl").write_text("")
    assert "empty.jsonl" in refused(cli, lab, *run_arguments(train="empty.jsonl"))
    one = [row for row in rows(60) if row["completion"] == " red"]
    write_jsonl(lab / "one.jsonl", one)
    assert "one.jsonl" in refused(cli, lab, *run_arguments(train="one.jsonl"))


@pytest.mark.parametrize("ratio", ["0", "1", "-0.2", "1.5", "0.05", "0.99"])
def test_ratios_that_cut_nothing_or_everything(cli, lab, ratio):
    assert "ratio" in refused(cli, lab, *run_arguments(ratio=ratio))


def test_protected_layers_that_leave_too_few(cli, lab):
    line = refused(cli, lab, *run_arguments(), "selection.protect=[0,1,2,-1]", "selection.ratio=0.5")
    assert "protect" in line


def test_unknown_keys_methods_and_recipes_have_a_suggestion(cli, lab):
    assert "did you mean 'learning_rate'" in refused(cli, lab, *run_arguments(), "training.learning_rte=1")
    assert "did you mean 'lora'" in refused(cli, lab, *run_arguments(), "training.method=loar")
    assert "did you mean 'gradpruner'" in refused(cli, lab, "run", "gradpruna", "--model=model")
    assert "did you mean 'baseline'" in refused(cli, lab, *run_arguments(), "baselin=true")


def test_values_out_of_range_name_the_key(cli, lab):
    assert "recovery.keep_top" in refused(cli, lab, *run_arguments(), "recovery.keep_top=1.5")
    assert "training.learning_rate" in refused(cli, lab, *run_arguments(), "training.learning_rate=fast")
    assert "KEY=VALUE" in refused(cli, lab, *run_arguments(), "training.max_steps")
    assert "importance.steps" in refused(cli, lab, *run_arguments(), "importance.steps=2")


def test_an_output_folder_that_is_not_ours(cli, lab):
    (lab / "out").mkdir()
    (lab / "out" / "thesis.txt").write_text("years of work")
    assert "not a run of depthprune" in refused(cli, lab, *run_arguments())


def test_too_little_disk(cli, lab, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - 1000, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "are free there" in refused(cli, lab, *run_arguments())


def test_messages_need_a_chat_template_and_one_may_be_given(cli, lab):
    model_folder(lab / "plain", chat_template=False)
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    write_jsonl(lab / "chat.jsonl", [{"messages": turns}] * 16)
    arguments = run_arguments(model="plain", train="chat.jsonl", eval="chat.jsonl")
    assert "--chat-template" in refused(cli, lab, *arguments)
    (lab / "chat.jinja").write_text(
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    )
    assert cli(*arguments, "--chat-template=chat.jinja", "evaluation.max_new_tokens=4")[0] == 0


def test_a_tokenizer_without_eos(cli, lab):
    model_folder(lab / "no-eos", eos=False)
    assert "EOS" in refused(cli, lab, *run_arguments(model="no-eos"))


def test_prompts_that_fill_the_length(cli, lab):
    write_jsonl(lab / "long.jsonl", [{**row, "prompt": row["prompt"] * 20} for row in rows(32)])
    assert "max_length" in refused(cli, lab, *run_arguments(train="long.jsonl"), "importance.max_length=16")


def test_too_few_scoring_steps(cli, lab):
    write_jsonl(lab / "few.jsonl", rows(8))
    assert "scoring step" in refused(cli, lab, *run_arguments(train="few.jsonl"))


def test_scores_that_are_not_finite(cli, lab):
    weights = lab / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.layers.3.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, weights, {"format": "pt"})
    assert "not finite" in refused(cli, lab, *run_arguments())


def test_missing_data_and_unknown_options(cli, lab):
    assert "--train" in refused(cli, lab, "run", "gradpruner", "--model=model", "--output=out")
    assert "--calibration" in refused(cli, lab, "run", "shortgpt", "--model=model", "--output=out")
    assert "nothing.jsonl" in refused(cli, lab, *run_arguments(train="nothing.jsonl"))
    assert "--ratoi" in refused(cli, lab, "run", "gradpruner", "--ratoi=0.3")
    assert "until" in refused(cli, lab, *run_arguments(until="sleep"))


def test_prune_works_on_files_alone(cli, lab):
    assert cli("prune", "--model=model", "--remove=1,3-4", "--output=cut")[0] == 0
    model = AutoModelForCausalLM.from_pretrained(lab / "cut")
    assert model.config.num_hidden_layers == LAYERS - 3
    original = load_file(lab / "model" / "model.safetensors")
    cut = load_file(lab / "cut" / "model.safetensors")
    name = "mlp.down_proj.weight"
    assert torch.equal(cut[f"model.layers.1.{name}"], original[f"model.layers.2.{name}"])
    assert cli("verify", "cut")[0] == 0
    assert "layer" in refused(cli, lab, "prune", "--model=model", "--remove=9", "--output=out")
    assert "range" in refused(cli, lab, "prune", "--model=model", "--remove=4-2", "--output=out")
    half = ("prune", "--model=model", "--remove=3", "--output=out")
    assert "kept:removed" in refused(cli, lab, *half, "--mlp-from=2-3")
    assert "name it once" in refused(cli, lab, *half, "--mlp-from=2:3,1:3")
    assert "layer 1 cannot take the MLP of layer 3" in refused(cli, lab, *half, "--mlp-from=1:3")


def test_verify_says_what_is_wrong(cli, lab):
    config = json.loads((lab / "model" / "config.json").read_text())
    (lab / "model" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": LAYERS + 1}))
    assert "missing" in refused(cli, lab, "verify", "model")


def test_inspect_and_methods_and_dry_run_as_tables_and_as_json(cli, lab):
    assert f"{LAYERS} layers" in cli("inspect", "model", "--ratio=0.34")[1]
    found = json.loads(cli("inspect", "model", "--ratio=0.34", "--json")[1])
    assert found["num_layers"] == len(found["parameters_per_layer"]) == LAYERS
    assert found["remaining"]["layers"] == LAYERS - 2
    assert "gradpruner" in cli("methods")[1]
    needs = {row["recipe"]: row["needs"] for row in json.loads(cli("methods", "--json")[1])["recipes"]}
    assert needs["gradpruner"] == needs["reverse"] == "training" and needs["shortgpt"] == "calibration"
    assert "disk needed" in cli(*run_arguments(), "--dry-run")[1]
    planned = json.loads(cli(*run_arguments(), "--dry-run", "--json")[1])
    assert planned["steps"] == {"scoring": 8, "training": 3}
    assert not (lab / "out").exists()


def test_score_then_run_then_evaluate(cli, lab):
    data = ["--model=model", "--train=train.jsonl"]
    code, out, err = cli("score", "gradpruner", *data, "--output=out", "--json", "importance.steps=3")
    assert code == 0, err
    assert len(json.loads(out)["scores"]) == LAYERS
    code, out, err = cli("run", "gradpruner", *data, "--output=out", "--json", "importance.steps=3", *SMALL)
    assert code == 0, err
    assert "already done" in err
    assert list(json.loads(out)["rows"]) == ["base", "pruned", "pruned+tuned"]
    code, out, err = cli("evaluate", "--model=out", "--eval=test.jsonl", "--json")
    assert code == 0, err
    assert json.loads(out)["rows"]["out"]["results"][0]["metric"] == "accuracy"


def test_train_tunes_without_pruning(cli, lab):
    code, _, err = cli(
        "train", "--model=model", "--train=train.jsonl", "--eval=test.jsonl", "--output=tuned", *SMALL
    )
    assert code == 0, err
    assert AutoModelForCausalLM.from_pretrained(lab / "tuned").config.num_hidden_layers == LAYERS
    assert list(json.loads((lab / "tuned/depthprune/eval.json").read_text())["rows"]) == [
        "base",
        "base+tuned",
    ]


def test_a_fault_of_ours_ends_with_one_line_and_a_traceback_in_a_file(cli, lab, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError("the disk melted")

    monkeypatch.setattr(shutil, "disk_usage", broken)
    code, _, err = cli(*run_arguments())
    assert code == 1
    line = err.splitlines()[-1]
    assert "the disk melted" in line
    log = Path(line.split("traceback in ")[1].rstrip(")"))
    assert "Traceback" in log.read_text()
    log.unlink()
