"""Runs whose training learns from the dense model."""

import json
from pathlib import Path

import pytest
from runs import recipe, rows, write_jsonl
from transformers import LlamaForCausalLM
from trl import SFTTrainer

from depthprune import UserError, load_recipe, run, verify
from depthprune.data.examples import load_examples
from depthprune.pipeline.estimate import estimate

TAUGHT = {
    "selection.ratio": 0.34,
    "training.loss": "distill",
    "training.data": "self",
    "training.self_data.max_new_tokens": 6,
    "training.max_steps": 2,
}


def stop(*arguments, **options):
    raise KeyboardInterrupt


def own(folder, name):
    return json.loads((folder / "depthprune" / name).read_text())


def test_own_answers_and_the_teacher_serve_the_tuned_model_and_the_control(tmp_path):
    options = {**TAUGHT, "baseline": True, "training.last_layers": 1}
    folder = run(recipe(tmp_path, "reverse-partial", **options), tmp_path / "out")
    verify(folder)
    answers = folder / "depthprune" / "self-data.jsonl"
    assert len(load_examples(answers).rows) > 50
    assert not (folder / "depthprune" / "teacher").exists()
    assert not list((folder / "depthprune").glob("*.partial"))
    trained = own(folder, "training.json")
    assert trained["train"]["what"] == "model.norm, lm_head, layer 3"
    assert trained["baseline"]["what"] == "model.norm, lm_head, layer 5"
    assert (trained["train"]["loss"], trained["train"]["data"]) == ("distill", "self")
    assert trained["train"]["trained"] == trained["baseline"]["trained"] < trained["train"]["parameters"]
    assert list(own(folder, "eval.json")["rows"]) == ["base", "base+tuned", "pruned", "pruned+tuned"]

    options |= {"training.distill.top_k": 8}
    run(recipe(tmp_path, "reverse-partial", **options), folder, until="score")
    assert stale_stages(folder) == {"train", "baseline", "evaluate"}
    options |= {"training.self_data.temperature": 0.5}
    run(recipe(tmp_path, "reverse-partial", **options), folder, until="score")
    assert stale_stages(folder) == {"answers", "train", "baseline", "evaluate"}
    assert answers.exists()  # nobody asked for others yet


def stale_stages(folder: Path) -> set[str]:
    return {stage for stage, stamp in own(folder, "stages.json").items() if stamp.get("stale")}


def test_a_killed_training_finds_the_teacher_and_the_answers_again(tmp_path, monkeypatch):
    chosen, out = recipe(tmp_path, "reverse", **TAUGHT), tmp_path / "out"
    monkeypatch.setattr(SFTTrainer, "train", stop)
    kept = []
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(chosen, out)
        files = [*(out / "depthprune/teacher").rglob("*.safetensors"), out / "depthprune/self-data.jsonl"]
        kept.append({path: path.stat().st_mtime_ns for path in files})
    assert len(kept[0]) == 2
    assert kept[0] == kept[1]
    monkeypatch.undo()
    verify(run(chosen, out))
    assert not (out / "depthprune/teacher").exists()


def test_answers_of_another_recipe_are_not_taken_up(tmp_path, monkeypatch):
    out = tmp_path / "out"
    sampled = {**TAUGHT, "training.self_data.temperature": 2.0, "training.self_data.batch_size": 1}

    def killed(model, *arguments, **options):
        if any(path.read_text() for path in out.glob("depthprune/*.partial")):
            raise KeyboardInterrupt
        return generate(model, *arguments, **options)

    generate = LlamaForCausalLM.generate
    monkeypatch.setattr(LlamaForCausalLM, "generate", killed)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(tmp_path, "reverse", **sampled), out)
    monkeypatch.undo()
    greedy = {**TAUGHT, "training.self_data.batch_size": 1}
    monkeypatch.setattr(SFTTrainer, "train", stop)
    for folder in (out, tmp_path / "fresh"):
        with pytest.raises(KeyboardInterrupt):
            run(recipe(tmp_path, "reverse", **greedy), folder)
    texts = [(path / "depthprune/self-data.jsonl").read_text() for path in (out, tmp_path / "fresh")]
    assert texts[0] == texts[1]
    assert not list((out / "depthprune").glob("*.partial"))


def test_the_estimate_counts_answers_and_teacher(tmp_path):
    disk = estimate(recipe(tmp_path, "reverse", **TAUGHT), tmp_path / "out")["disk"]
    assert disk["teacher"] == (8 * 64 + 4) * 64 * 6
    assert disk["answers"] > 0
    given = {key: value for key, value in TAUGHT.items() if "data" not in key}
    tokens = sum(len(row["completion"]) + 1 for row in rows(64))
    assert estimate(recipe(tmp_path, "reverse", **given), tmp_path / "out")["disk"]["teacher"] == 516 * tokens


@pytest.mark.parametrize(
    "name, overrides, message",
    [
        ("finetune", {"training.loss": "distill"}, "it would learn from itself"),
        ("finetune", {"training.data": "self"}, "it would learn from itself"),
        ("reverse", {"training.distill.top_k": 8}, "training.loss is not distill"),
        ("reverse", {"training.self_data.temperature": 1}, "training.data is not self"),
        ("reverse", {"training.loss": "distil"}, "training.loss is 'distil'"),
        (
            "reverse",
            {"training.distill.topk": 8},
            "training.distill.topk: no such setting; did you mean 'top_k'?",
        ),
        ("reverse", {"training.distill": 3}, "training.distill is 3"),
        ("shortgpt", {"training.loss": "distill"}, "training.loss: no such setting"),
    ],
)
def test_settings_that_make_no_sense_are_refused_when_parsed(name, overrides, message):
    with pytest.raises(UserError) as refusal:
        load_recipe(name, **overrides)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


def test_inputs_that_cannot_train_are_refused_before_anything_is_written(tmp_path):
    write_jsonl(tmp_path / "text.jsonl", [{"text": row["prompt"] * 4} for row in rows(32)])
    text = {**TAUGHT, "train": str(tmp_path / "text.jsonl")}
    with pytest.raises(UserError, match="no prompts"):
        run(recipe(tmp_path, "reverse", **text), tmp_path / "out")
    with pytest.raises(UserError, match=r"training\.last_layers is 5 and 4 layers"):
        run(
            recipe(tmp_path, "reverse-partial", **{"selection.ratio": 0.34, "training.last_layers": 5}),
            tmp_path / "out",
        )
    assert not (tmp_path / "out").exists()
