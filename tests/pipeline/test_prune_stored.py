"""Pruning files gives the checkpoint that pruning the model in memory gives."""

import json
from dataclasses import replace

import pytest
import torch
from accelerate import PartialState
from runs import model_folder, recipe
from safetensors.torch import load_file
from tiny import tiny_model
from tiny_tokenizer import tiny_tokenizer

from depthprune.files import remove
from depthprune.model.arithmetic import Arithmetic
from depthprune.model.loading import load_model
from depthprune.model.shard_writing import pieces_of
from depthprune.model.shards import read_shards
from depthprune.model.verify import GateError, check_copied
from depthprune.pipeline.folder import RunFolder
from depthprune.pipeline.inputs import load_inputs
from depthprune.pipeline.job import Job
from depthprune.pipeline.prune import prune_loaded
from depthprune.pipeline.prune_stored import prune_stored
from depthprune.pipeline.run import run
from depthprune.selection import Plan


def job_of(settings, root):
    root.mkdir(exist_ok=True)
    return Job(load_inputs(settings, "prune"), RunFolder(root), PartialState(), Arithmetic(None, "", {}))


def contents(folder):
    """File → content; the tensors of all weight files together."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith("model")}
    found = {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}
    return files, {
        name: (t.dtype, t.shape, t.view(torch.uint8).numpy().tobytes()) for name, t in found.items()
    }


def both_ways(job, plan):
    """(report, parameters, content of the checkpoint), on files and in memory."""
    found = []
    for way in (prune_stored, prune_loaded):
        result = way(job, plan)
        assert result is not None
        checkpoint = job.folder.artifact("prune")
        found.append((*result, *contents(checkpoint)))
        assert [path.name for path in checkpoint.iterdir() if path.name.startswith(".")] == []
        remove(checkpoint)
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text", "gpt2", "olmo2"])
def test_a_cut_without_repair(family, tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_model(family, vocab_size=264).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "base", max_shard_size="60KB")
    tokenizer.save_pretrained(tmp_path / "base")
    settings = recipe(tmp_path, "reverse", model=str(tmp_path / "base"), **{"training.method": "none"})
    stored, in_memory = both_ways(job_of(settings, tmp_path / "out"), Plan(6, (1, 4)))
    assert stored == in_memory


def test_layers_that_take_others(tmp_path):
    settings = recipe(tmp_path, "reverse", **{"training.method": "none"})
    plan = Plan(6, (2, 4), mlp_from={1: 2})
    stored, in_memory = both_ways(job_of(settings, tmp_path / "out"), plan)
    assert stored == in_memory


def test_merged_layers(tmp_path):
    settings = recipe(tmp_path, "gradpruner", keep_gradients=True, **{"selection.ratio": 0.67})
    root = run(settings, tmp_path / "out", "select")
    plan = Plan.from_json(json.loads((root / "depthprune" / "plan.json").read_text()))
    plan = replace(
        plan, merged_into={gone: max(k for k in plan.kept if k < gone) for gone in plan.removed if gone}
    )
    assert len(plan.merged_into) > 1
    stored, in_memory = both_ways(job_of(settings, root), plan)
    assert stored == in_memory and stored[0]["changed_layers"]


@pytest.mark.parametrize(
    ("changes", "plan"),
    [
        ({}, Plan(6, (), silenced={1: ("mlp",)})),
        ({"dtype": "bfloat16"}, Plan(6, (1,))),
        ({"recovery.method": "projection", "calibration_samples": {"samples": 8}}, Plan(6, (1,))),
    ],
)
def test_what_needs_the_model_is_left_to_it(changes, plan, tmp_path):
    settings = recipe(tmp_path, "reverse", **{"training.method": "none", **changes})
    assert prune_stored(job_of(settings, tmp_path / "out"), plan) is None
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_the_gate_of_copied_tensors(tmp_path):
    folder = model_folder(tmp_path / "model")
    pieces = pieces_of(read_shards(folder), lambda name: name)
    check_copied(folder, pieces, load_model(folder))
    with pytest.raises(GateError, match="dtype"):
        check_copied(folder, pieces, load_model(folder, "bfloat16"))
    deeper = load_model(folder)
    deeper.model.layers[0].self_attn.scaling *= 2
    with pytest.raises(GateError, match="logits differ"):
        check_copied(folder, pieces, deeper)
    other = model_folder(tmp_path / "changed")
    path = other / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(GateError, match="is not what it was"):
        check_copied(other, pieces, load_model(other))
