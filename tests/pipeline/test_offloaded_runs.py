"""A run whose model's layers lie on disk chooses and writes what one in memory does."""

import json

import pytest
from runs import recipe, rows, write_jsonl
from safetensors.torch import load_file
from tiny import tiny_model
from tiny_tokenizer import tiny_tokenizer

from depthprune.errors import UserError
from depthprune.pipeline.estimate import estimate
from depthprune.pipeline.run import run
from depthprune.recipe.load import load_recipe

QUICK = ("llama", "gemma3_text")
FAMILIES = ("llama", "qwen3", "gemma3_text", "opt", "gpt2", "mixtral", "olmo2", "phi")


def made_of(family, tmp_path, device_map, **changes):
    """The plan, scores and tensors that a run without training leaves."""
    if not (tmp_path / "model").exists():
        tiny_model(family, vocab_size=264).save_pretrained(tmp_path / "model")
        tiny_tokenizer().save_pretrained(tmp_path / "model")
        write_jsonl(tmp_path / "train.jsonl", rows(24))
    settings = recipe(
        tmp_path,
        "reverse",
        **{
            "train": str(tmp_path / "train.jsonl"),
            "eval": (),
            "training.method": "none",
            "importance.metric": "block-influence",
            "calibration_samples.samples": 8,
            "calibration_samples.batch_size": 4,
            "arithmetic": "float32",
            "device_map": device_map,
            **changes,
        },
    )
    root = run(settings, tmp_path / str(device_map), "prune")
    own = root / "depthprune"
    assert not list(own.glob(".offloaded-*"))
    tensors = {
        name: tensor for file in root.glob("*.safetensors") for name, tensor in load_file(file).items()
    }
    plan, scores = (json.loads((own / name).read_text()) for name in ("plan.json", "scores.json"))
    return plan, scores["scores"], tensors


def assert_same(family, tmp_path, **changes):
    there, here = (made_of(family, tmp_path, where, **changes) for where in ("disk", None))
    assert there[:2] == here[:2]
    assert there[2].keys() == here[2].keys()
    assert all(there[2][name].equal(tensor) for name, tensor in here[2].items())


@pytest.mark.parametrize(
    "family",
    [family if family in QUICK else pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES],
)
def test_a_cut(family, tmp_path):
    assert_same(family, tmp_path)


@pytest.mark.parametrize("family", [pytest.param("qwen3", marks=pytest.mark.slow), "gemma3_text"])
def test_a_repair(family, tmp_path):
    assert_same(family, tmp_path, **{"recovery.method": "projection"})


def test_gradmap(tmp_path):
    chosen = {
        "importance.metric": "gradient-norm",
        "selection.method": "iterative",
        "recovery.method": "projection",
    }
    there, here = (made_of("llama", tmp_path, where, **chosen) for where in ("disk", None))
    assert there[0]["removed"] == here[0]["removed"]
    assert there[1] == pytest.approx(here[1], rel=1e-5)
    assert all(there[2][name].equal(tensor) for name, tensor in here[2].items())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_flattened_model(family, tmp_path):
    if family == "mixtral":
        pytest.skip("a mixture of experts is not flattened")
    chosen = {"recovery.method": "flatten", "recovery.tried": 1, "selection.method": "by-recovery"}
    assert_same(family, tmp_path, **chosen, **{"selection.num_removed": 1, "importance.metric": "none"})


def test_a_dry_run_says_what_memory_it_takes(tmp_path):
    sources = {"calibration_samples.samples": 8, "calibration_samples.length": 16, "arithmetic": "float32"}
    model = recipe(tmp_path, "reverse").model
    weights = load_file(f"{model}/model.safetensors")
    in_a_layer = sum(4 * w.numel() for name, w in weights.items() if ".layers.0." in name)
    outside = sum(4 * w.numel() for name, w in weights.items() if ".layers." not in name)
    states = 4 * 8 * 16 * weights["model.norm.weight"].numel()
    found = {
        where: estimate(recipe(tmp_path, "reverse", device_map=where, **sources), tmp_path / "out")["memory"]
        for where in ("disk", "auto", None)
    }
    assert found["disk"] == {"weights": in_a_layer + outside, "hidden states": states}
    asked = recipe(
        tmp_path, "reverse", device_map="disk", **{"importance.metric": "gradient-norm"}, **sources
    )
    assert estimate(asked, tmp_path / "out")["memory"]["hidden states"] == 7 * states
    assert found[None] == {"weights": 6 * in_a_layer + outside} and found["auto"] == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gradpruner", "needs gradients of all weights, in memory"),
        ("laco", "changes layers in memory"),
        ("finercut", "moves parts of layers in memory"),
    ],
)
def test_what_needs_all_weights_in_memory(name, reason, tmp_path):
    with pytest.raises(UserError, match=reason):
        load_recipe(name, device_map="disk")
