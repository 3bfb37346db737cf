"""A finished run goes to the hub whole, or not at all, and nothing is claimed that the hub does not list."""

import json
import shutil
import sys

import pytest
import yaml
from export.hub_standin import TOKEN, hub
from huggingface_hub import constants
from runs import recipe

from depthprune import run
from depthprune.cli.verbs import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that is done, on rows and a model with absolute paths."""
    place = tmp_path_factory.mktemp("hub")
    settings = {"training.max_steps": 1, "selection.ratio": 0.34, "evaluation.limit": 4}
    return run(recipe(place, "reverse", **settings), place / "out")


@pytest.fixture
def online(monkeypatch):
    """A hub, and this process told of it."""
    with hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def push(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["depthprune", "push", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        said = [line for line in captured.err.splitlines() if line.startswith(("error:", "depthprune"))]
        return ended.value.code or 0, captured.out, said

    return call


def test_model_card_and_evidence_are_there_and_the_commit_is_named(finished, online, push):
    code, out, _ = push(finished, "--repo", "me/small", "--private")
    files = online.repos["me/small"]
    assert code == 0 and f"{online.address}/me/small/commit/" in out and "me/small" in online.private
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md", "depthprune/eval.json"):
        assert files[name] == (finished / name).read_bytes()
    held = {name.split("/")[1] for name in files if name.startswith("depthprune/")}
    assert {"plan.json", "recipe.yaml", "report.html", "metrics.jsonl"} <= held
    assert not held & {"tuned", "pruned", "stages.json", "per-row.json", "lock"}
    place = str(finished.parent).encode()
    assert [name for name, content in files.items() if place in content] == []
    told = yaml.safe_load(files["depthprune/recipe.yaml"])
    assert (told["model"], told["train"], told["eval"]) == ("model", "train.jsonl", ["test.jsonl"])
    assert not (finished / "depthprune/lock").exists()


def test_what_an_earlier_push_left_goes_and_a_strangers_repository_stays(finished, online, push):
    online.repos["me/again"] = {"depthprune/plan.json": b"{}", "model-00001-of-00002.safetensors": b"old"}
    assert push(finished, "--repo", "me/again")[0] == 0
    assert "model-00001-of-00002.safetensors" not in online.repos["me/again"]
    online.repos["me/thesis"] = {"README.md": b"mine", "thesis.pdf": b"mine"}
    code, out, said = push(finished, "--repo", "me/thesis")
    assert (code, out) == (2, "") and "holds something that depthprune did not push" in said[0]
    code, out, said = push(finished, "--repo", "me/again", "--private")
    assert (code, out) == (2, "") and "public" in said[0]
    assert online.repos["me/thesis"] == {"README.md": b"mine", "thesis.pdf": b"mine"}


def test_results_of_tasks_go_along(finished, online, push, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    record = json.loads((root / "depthprune/published.json").read_text())
    raw = {
        "results": {"arc": {"acc,none": 0.5}},
        "configs": {"arc": {"dataset_path": "allenai/ai2_arc", "metric_list": [{"metric": "acc"}]}},
        "versions": {"arc": 1}, "n-shot": {"arc": 0}, "n-samples": {"arc": {"original": 9, "effective": 9}},
    }  # fmt: skip
    kept = {"rows": {"run": {"raw": raw, "harness": {"lm_eval": "0.4.13"}}}, "published": record}
    kept["published"] = {key: record[key] for key in ("stage", "digest")}
    (root / "depthprune/lm-eval").mkdir()
    (root / "depthprune/lm-eval/results_1.json").write_text(json.dumps(kept))
    assert push(root, "--repo", "me/measured")[0] == 0
    (entry,) = yaml.safe_load(online.repos["me/measured"][".eval_results/allenai--ai2_arc.yaml"])
    assert entry["dataset"] == {"id": "allenai/ai2_arc", "task_id": "arc"} and entry["value"] == 0.5


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"refuses": 403}, "the hub refuses (403): You may not write here.; use a token that may write"),
        ({"loses": "model.safetensors"}, "the hub does not list model.safetensors: push again"),
    ],
)
def test_what_the_hub_does_not_take_is_no_success(finished, online, push, fault, said):
    for name, value in fault.items():
        setattr(online, name, value)
    code, out, lines = push(finished, "--repo", "me/small")
    assert (code, out) == (2, "") and len(lines) == 1 and said in lines[0]


def test_a_wrong_token_or_none_no_hub_and_offline_are_one_line(finished, online, push, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    code, out, lines = push(finished, "--repo", "me/small")
    assert (code, out, len(lines)) == (2, "", 1) and "refuses (401)" in lines[0]
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, out, lines = push(finished, "--repo", "me/small")
    assert (code, out, len(lines)) == (2, "", 1) and "it is not pushed" in lines[0]
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    code, out, lines = push(finished, "--repo", "me/small")
    assert (code, out, len(lines)) == (2, "", 1) and "no token for the hub" in lines[0]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    code, out, lines = push(finished, "--repo", "me/small")
    assert (code, out, len(lines)) == (2, "", 1) and "HF_HUB_OFFLINE is set" in lines[0]
    code, out, lines = push(finished, "--repo", "me/small/er")
    assert (code, out, len(lines)) == (2, "", 1) and "--repo me/small/er" in lines[0]


def test_what_is_no_finished_whole_run_is_refused_before_the_hub_is_asked(finished, online, push, tmp_path):
    root = tmp_path / "run"
    shutil.copytree(finished, root)
    stages = json.loads((root / "depthprune/stages.json").read_text())

    def refused(said):
        code, out, lines = push(root, "--repo", "me/small")
        assert (code, out, len(lines)) == (2, "", 1) and said in lines[0] and online.calls == []

    without = {name: stamp for name, stamp in stages.items() if name != "evaluate"}
    (root / "depthprune/stages.json").write_text(json.dumps(without))
    refused("evaluate is missing")
    stale = {**stages, "evaluate": {**stages["evaluate"], "stale": True}}
    (root / "depthprune/stages.json").write_text(json.dumps(stale))
    refused("not finished")
    (root / "depthprune/stages.json").write_text(json.dumps(stages))
    weights = (root / "model.safetensors").read_bytes()
    (root / "model.safetensors").write_bytes(weights[:-4] + b"\1\2\3\4")
    refused("model.safetensors is not that of its stage train")
    shutil.rmtree(root / "depthprune")
    refused("not a run of depthprune")
