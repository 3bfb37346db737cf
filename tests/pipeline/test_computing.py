"""In which arithmetic a run computes, and that it stays with the folder."""

import json

import pytest
import torch
from runs import recipe
from transformers import AutoModelForCausalLM

from depthprune import run
from depthprune.recipe.load import load_recipe


def own(folder, name):
    return json.loads((folder / "depthprune" / name).read_text())


def test_a_tiny_model_computes_in_float32_and_environment_says_so(tmp_path):
    folder = run(recipe(tmp_path, "random", **{"training.method": "none"}), tmp_path / "out")
    found = own(folder, "environment.json")["arithmetic"]
    assert (found["dtype"], found["word"], found["seconds"]) == ("float32", "auto", {})
    assert "too few" in found["why"]


@pytest.mark.slow
def test_a_call_that_goes_on_keeps_the_choice_made_first(tmp_path):
    chosen = recipe(tmp_path, "random")
    folder = run(chosen, tmp_path / "out", until="prune")
    path = folder / "depthprune" / "environment.json"
    environment = json.loads(path.read_text())
    environment["arithmetic"] |= {"dtype": "bfloat16", "why": "another machine said so"}
    path.write_text(json.dumps(environment))
    run(chosen, folder)
    assert own(folder, "environment.json")["arithmetic"] == environment["arithmetic"]
    environment["arithmetic"]["model"] = "another model"
    path.write_text(json.dumps(environment))
    run(recipe(tmp_path, "random", seed=1), folder)
    assert own(folder, "environment.json")["arithmetic"]["dtype"] == "float32"


@pytest.mark.slow
def test_training_follows_the_recipes_arithmetic_and_its_own_word_stands_above(tmp_path):
    def tuned(name, **changes):
        chosen = recipe(tmp_path, "random", **{"training.method": "full", **changes})
        return AutoModelForCausalLM.from_pretrained(run(chosen, tmp_path / name)).state_dict()

    def equal(one, other):
        return all(torch.equal(one[name], other[name]) for name in one)

    exact = tuned("exact")
    rounded = tuned("rounded", arithmetic="bfloat16", **{"training.bf16": True})
    assert equal(rounded, tuned("told", arithmetic="bfloat16"))
    assert not equal(rounded, exact)
    assert all(weight.dtype == torch.float32 for weight in rounded.values())


def test_a_bfloat16_model_is_measured_in_the_arithmetic_asked_for(tmp_path):
    chosen = recipe(tmp_path, "random")
    stored = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    stored.save_pretrained(tmp_path / "model")
    settings = {"model": chosen.model, "eval": chosen.eval, "training.method": "none"}
    losses = {}
    for arithmetic in ("auto", "float32", "bfloat16"):
        asked = load_recipe("random", **settings, arithmetic=arithmetic)
        folder = run(asked, tmp_path / arithmetic)
        losses[arithmetic] = [
            row["results"][-1]["value"] for row in own(folder, "eval.json")["rows"].values()
        ]
        weights = AutoModelForCausalLM.from_pretrained(folder).state_dict().values()
        assert {weight.dtype for weight in weights} == {torch.bfloat16}
    assert losses["auto"] == losses["float32"]


def test_an_arithmetic_asked_for_makes_a_run_anew_and_the_default_changes_no_digest(tmp_path):
    chosen = recipe(tmp_path, "random", **{"training.method": "none"})
    folder = run(chosen, tmp_path / "out")
    before = own(folder, "stages.json")
    assert run(chosen, folder) == folder and own(folder, "stages.json") == before
    asked = recipe(tmp_path, "random", arithmetic="bfloat16", **{"training.method": "none"})
    run(asked, folder)
    after = own(folder, "stages.json")
    assert all(after[stage]["digest"] != before[stage]["digest"] for stage in before)
