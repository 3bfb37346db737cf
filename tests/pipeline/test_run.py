import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import LAYERS, model_folder, recipe, rows, write_jsonl
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from depthprune import UserError, run, verify
from depthprune.model.surgery import remove_layers


def own(folder: Path, name: str) -> dict:
    return json.loads((folder / "depthprune" / name).read_text())


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same_weights(one: Path, other: Path) -> None:
    left, right = tensors(one), tensors(other)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_run_leaves_a_plain_smaller_model_and_its_evidence(tmp_path, method):
    chosen = recipe(tmp_path, **{"training.method": method, "selection.ratio": 0.34, "baseline": True})
    folder = run(chosen, tmp_path / "out")
    verify(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert len(model.model.layers) == model.config.num_hidden_layers == LAYERS - 2
    assert not any("lora" in name for name in model.state_dict())
    original = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for field in ("use_cache", "bos_token_id", "eos_token_id", "pad_token_id", "dtype"):
        assert getattr(model.config, field) == getattr(original.config, field)
    assert AutoTokenizer.from_pretrained(folder).get_vocab()

    plan = own(folder, "plan.json")
    assert plan["num_layers"] == LAYERS
    assert sorted(plan["removed"] + plan["kept"]) == list(range(LAYERS))
    scores = own(folder, "scores.json")
    assert len(scores["scores"]) == LAYERS
    assert scores["steps"] == 4
    assert {"metric", "seconds", "peak_bytes", "samples", "rounds"} <= scores.keys()
    table = own(folder, "eval.json")["rows"]
    assert list(table) == ["base", "base+tuned", "pruned", "pruned+tuned"]
    assert [table[name]["layers"] for name in table] == [LAYERS, LAYERS, LAYERS - 2, LAYERS - 2]
    for row in table.values():
        assert {"dataset", "metric", "value", "n", "stderr"} <= row["results"][0].keys()
    for name in ("recipe.yaml", "metrics.jsonl", "environment.json", "report.html", "mergekit.yaml"):
        assert (folder / "depthprune" / name).is_file()
    assert (folder / "README.md").is_file()
    assert not (folder / "depthprune" / "gradients").exists()
    assert not (folder / "depthprune" / "trainer").exists()


def test_without_recovery_and_training_the_result_is_the_bare_surgery(tmp_path):
    chosen = recipe(tmp_path, "reverse", **{"training.method": "none", "selection.ratio": 0.34})
    folder = run(chosen, tmp_path / "out")
    model = remove_layers(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), [4, 5])
    saved = tensors(folder)
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(saved[name], weight) for name, weight in model.state_dict().items())


def test_a_second_call_does_nothing_and_a_changed_recipe_redoes_what_depends_on_it(tmp_path):
    folder = run(recipe(tmp_path), tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    stamps = own(folder, "stages.json")
    run(recipe(tmp_path), tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")} == before
    assert own(folder, "stages.json") == stamps

    run(recipe(tmp_path, **{"training.learning_rate": 2e-3}), tmp_path / "out")
    after = own(folder, "stages.json")
    assert {stage for stage in stamps if after[stage] != stamps[stage]} == {"train", "evaluate"}


def test_until_ends_early_and_the_run_goes_on_from_there(tmp_path):
    folder = run(recipe(tmp_path), tmp_path / "out", until="prune")
    verify(folder)
    assert not (folder / "depthprune" / "eval.json").exists()
    run(recipe(tmp_path), folder)
    whole = run(recipe(tmp_path), tmp_path / "whole")
    assert_same_weights(folder, whole)
    assert own(folder, "eval.json")["rows"].keys() == own(whole, "eval.json")["rows"].keys()


def test_kept_gradients_have_the_promised_names_and_shapes(tmp_path):
    folder = run(recipe(tmp_path, keep_gradients=True), tmp_path / "out", until="prune")
    files = sorted((folder / "depthprune" / "gradients").glob("*.safetensors"))
    assert len(files) == 4
    step = load_file(files[0])
    assert step["model.layers.2.self_attn.q_proj.lora_A"].shape == (8, 32)
    assert step["model.layers.2.mlp.down_proj.lora_B"].shape == (32, 8)
    assert len(step) == LAYERS * 7 * 2


def test_a_split_is_held_out_where_no_evaluation_data_is_given(tmp_path):
    folder = run(recipe(tmp_path, "reverse", eval=()), tmp_path / "out")
    (result,) = own(folder, "eval.json")["rows"]["pruned+tuned"]["results"]
    assert result["n"] == 6


def test_another_plan_records_the_gradients_again(tmp_path):
    run(recipe(tmp_path, **{"selection.ratio": 0.5}), tmp_path / "out", until="prune")
    chosen = recipe(tmp_path, **{"selection.ratio": 0.67, "recovery.layers": "all"})
    folder = run(chosen, tmp_path / "out", until="prune")
    whole = run(chosen, tmp_path / "whole", until="prune")
    assert own(folder, "plan.json") == own(whole, "plan.json")
    assert_same_weights(folder, whole)


def contents(*folders: Path) -> set[bytes]:
    return {path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_what_a_changed_recipe_replaces_is_kept_and_what_is_not_asked_for_stays(tmp_path, caplog):
    folder = run(recipe(tmp_path), tmp_path / "out")
    (folder / "notes.txt").write_text("mine")
    inside = folder / "depthprune"
    finished = {name: contents(inside / name) for name in ("pruned", "tuned")}
    evaluation, plan = (inside / "eval.json").read_bytes(), (inside / "plan.json").read_bytes()

    other = {"selection.ratio": 0.67}
    with caplog.at_level("INFO", "depthprune"):
        run(recipe(tmp_path, **other), folder, until="select")
    (kept,) = (inside / "superseded").iterdir()
    assert f"plan.json of another recipe is kept as {kept / 'plan.json'}" in caplog.text
    assert (kept / "plan.json").read_bytes() == plan != (inside / "plan.json").read_bytes()
    assert contents(inside / "tuned") == finished["tuned"]
    assert (inside / "eval.json").read_bytes() == evaluation
    assert_same_weights(folder, inside / "tuned")
    assert "66.7" not in (folder / "README.md").read_text()
    assert "fine-tuned" not in page(folder)
    verify(folder)

    run(recipe(tmp_path, **other, **{"training.method": "none"}), folder)
    verify(folder)
    assert_same_weights(folder, inside / "pruned")
    assert contents(inside / "tuned") == finished["tuned"]
    assert finished["pruned"] <= contents(*(inside / "superseded").glob("*/pruned"))
    assert evaluation in contents(inside / "superseded")
    assert own(folder, "stages.json")["train"]["stale"] is True
    assert list(own(folder, "eval.json")["rows"]) == ["base", "pruned", "repaired"]

    run(recipe(tmp_path, **other), folder, overwrite=True)
    assert not (inside / "superseded").exists()
    assert_same_weights(folder, run(recipe(tmp_path, **other), tmp_path / "whole"))
    assert (folder / "notes.txt").read_text() == "mine"


def page(folder: Path) -> str:
    return (folder / "depthprune" / "report.html").read_text()


COMMAND = """
import sys
from pathlib import Path
from depthprune import run
from runs import recipe
run(recipe(Path(sys.argv[1]), **{"training.max_steps": 40, "training.method": "full"}), sys.argv[2])
"""


def there(folder: Path, part: str) -> bool:
    """Whether a path in the folder has this in it; what goes while it is looked for is passed over."""
    return any(
        part in f"{root}/{name}" for root, folders, files in os.walk(folder) for name in folders + files
    )


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["depthprune/gradients", "depthprune/pruned", "checkpoint-8", "eval-"])
def test_killed_anywhere_and_called_again_it_ends_the_same(tmp_path, moment):
    recipe(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-c", COMMAND, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([*command, str(whole)], check=True, env=environment)
    process = subprocess.Popen([*command, str(killed)], env=environment)
    while process.poll() is None and not there(killed, moment):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run([*command, str(killed)], check=True, env=environment)
    assert_same_weights(killed, whole)
    values = [[row["results"] for row in own(path, "eval.json")["rows"].values()] for path in (killed, whole)]
    assert values[0] == values[1]
    lines = [json.loads(line) for line in (killed / "depthprune/metrics.jsonl").open()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 41))


def test_a_user_error_takes_the_new_folder_away_again(tmp_path):
    chosen = recipe(tmp_path)
    write_jsonl(tmp_path / "train.jsonl", rows(8))
    with pytest.raises(UserError, match="scoring step"):
        run(chosen, tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_a_folder_that_is_not_ours_is_refused_and_left_alone(tmp_path):
    model_folder(tmp_path / "other")
    before = sorted(tmp_path.joinpath("other").rglob("*"))
    with pytest.raises(UserError, match="not a run of depthprune"):
        run(recipe(tmp_path), tmp_path / "other")
    assert sorted(tmp_path.joinpath("other").rglob("*")) == before
