"""Runs on a model with one layer without which nothing works, which its weights' sizes do not show."""

import json
import logging

import pytest
import torch
from runs import llama, recipe, write_jsonl
from tiny_tokenizer import tiny_tokenizer
from transformers import AutoModelForCausalLM

from depthprune import run
from depthprune.model.surgery import remove_layers

VITAL = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Layer 2 is a bias alone, toward the one letter that the text consists of."""
    path = tmp_path_factory.mktemp("vital")
    vocabulary = tiny_tokenizer()
    model = llama(vocabulary, mlp_bias=True)
    letter = vocabulary("a", add_special_tokens=False)["input_ids"][-1]
    with torch.no_grad():
        layer, head = model.model.layers[VITAL], model.lm_head.weight
        for parameter in layer.parameters():
            parameter.mul_(0.01)
        head[letter] *= 40
        layer.mlp.down_proj.bias.copy_(head[letter])
        model.model.embed_tokens.weight[letter] = -0.1 * head[letter]
    model.save_pretrained(path / "model")
    vocabulary.save_pretrained(path / "model")
    write_jsonl(path / "text.jsonl", [{"text": "a" * 400} for _ in range(4)])
    return path


def chosen(folder, name="shortened-llama-magnitude", **overrides):
    settings = {
        "train": None,
        "eval": (),
        "calibration": str(folder / "text.jsonl"),
        "calibration_samples.samples": 8,
        "calibration_samples.length": 16,
        "training.method": "none",
        "selection.method": "one-shot",
        "selection.num_removed": 2,
        "selection.protect": (),
    }
    return recipe(folder, name, **{**settings, **overrides})


def own(path, name):
    return json.loads((path / "depthprune" / name).read_text())


def loss_without(folder, removed):
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    if removed:
        remove_layers(model, removed)
    ids = tiny_tokenizer()("a" * 16, return_tensors="pt", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        return float(model(ids, labels=ids).loss)


def test_the_guard_keeps_what_the_scores_would_remove_and_says_so(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO, "depthprune")
    letter = run(chosen(folder, **{"selection.guard": "none"}), tmp_path / "letter")
    guarded = run(chosen(folder), tmp_path / "guarded")
    assert own(letter, "scores.json")["scores"] == own(guarded, "scores.json")["scores"]
    before, after = own(letter, "plan.json"), own(guarded, "plan.json")
    assert VITAL in before["removed"] and VITAL not in after["removed"]
    assert "guard" not in before["opinion"]
    guard = after["opinion"]["guard"]
    assert guard["spared"] == [VITAL] and list(guard["vital"]) == [str(VITAL)]
    assert set(guard["instead"]) == set(after["removed"]) - set(before["removed"])
    assert loss_without(folder, [VITAL]) - loss_without(folder, []) > 2.31  # more than ten times
    said = f"The guard kept layer {VITAL}: without it alone"
    assert said in caplog.text
    for name in ("README.md", "depthprune/report.html", "depthprune/plan.json"):
        assert said in (guarded / name).read_text(), name
    assert "clearly better" in " ".join(before["notes"]) and "clearly better" not in " ".join(after["notes"])


def test_rounds_keep_a_guarded_layer_and_tell_which(folder, tmp_path):
    path = run(chosen(folder, **{"selection.method": "iterative"}), tmp_path / "out", until="select")
    rounds, plan = own(path, "scores.json")["rounds"], own(path, "plan.json")
    assert [done.get("spared") for done in rounds] == [[VITAL], [VITAL]] and VITAL not in plan["removed"]
    assert plan["opinion"]["guard"]["spared"] == [VITAL]


def test_the_user_decides_and_is_warned(folder, tmp_path):
    explicit = {"selection.method": "explicit", "selection.remove": str(VITAL)}
    settings = {
        "calibration": str(folder / "text.jsonl"),
        "train": None,
        "eval": (),
        "training.method": "none",
    }
    samples = {"calibration_samples.samples": 8, "calibration_samples.length": 16}
    path = run(recipe(folder, "reverse", **{**settings, **samples, **explicit}), tmp_path / "out", "select")
    plan = own(path, "plan.json")
    assert plan["removed"] == [VITAL] and "without" not in own(path, "guard.json")
    (note,) = plan["notes"]
    assert note.startswith("A cheap control is clearly better: without layer ")
    best = min(plan["opinion"]["controls"], key=lambda control: control["perplexity"])
    assert best["perplexity"] < plan["opinion"]["bare_cut"]


def test_what_was_measured_is_not_measured_again(folder, tmp_path):
    path = run(chosen(folder), tmp_path / "out", until="select")
    measured = (path / "depthprune" / "guard.json").read_bytes()
    plan = own(path, "plan.json")
    (path / "depthprune" / "plan.json").unlink()  # as if killed before it was written
    run(chosen(folder), path, until="select")
    assert (path / "depthprune" / "guard.json").read_bytes() == measured
    assert own(path, "plan.json") == plan
    (path / "depthprune" / "plan.json").unlink()
    (path / "depthprune" / "guard.json").write_text('{"key": ')
    run(chosen(folder), path, until="select")
    assert own(path, "plan.json") == plan


def test_without_data_the_guard_is_left_out_and_that_is_said(folder, tmp_path):
    path = run(chosen(folder, calibration=None), tmp_path / "out", until="select")
    plan = own(path, "plan.json")
    assert VITAL in plan["removed"] and not (path / "depthprune" / "guard.json").exists()
    assert plan["notes"] == [
        "No guard and no second opinion: there are no calibration or training data to measure on."
    ]


def test_training_rows_serve_where_there_are_no_calibration_samples(folder, tmp_path):
    settings = {
        "calibration": None,
        "train": str(folder / "text.jsonl"),
        "eval": (str(folder / "text.jsonl"),),
    }
    path = run(chosen(folder, **settings), tmp_path / "out", until="select")
    assert own(path, "plan.json")["opinion"]["guard"]["spared"] == [VITAL]
