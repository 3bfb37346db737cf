"""Targets of size and speed, held against what really pruned models hold."""

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model

from depthprune import UserError, load_recipe
from depthprune.model.checkpoint import prune_files
from depthprune.pipeline.inspection import inspect_model
from depthprune.pipeline.inspection_of_files import inspect_files
from depthprune.pipeline.target import resolve
from depthprune.selection.target import parse_target


def stored(folder) -> list[torch.Tensor]:
    return [tensor for file in folder.glob("*.safetensors") for tensor in load_file(file).values()]


@pytest.mark.parametrize("family", ["llama", "gemma2"])  # head of its own, and tied
def test_a_pruned_model_is_within_the_target_and_one_layer_more_is_not(tmp_path, family):
    tiny_model(family).bfloat16().save_pretrained(tmp_path / "model")
    asked = load_recipe("reverse", model=str(tmp_path / "model"))
    for removed in (1, 3):
        prune_files(tmp_path / "model", range(6 - removed, 6), tmp_path / f"cut{removed}")
        tensors = stored(tmp_path / f"cut{removed}")
        parameters = sum(tensor.numel() for tensor in tensors)
        size = sum(tensor.nbytes for tensor in tensors)
        assert size == 2 * parameters
        for given in ({"parameters": str(parameters)}, {"memory": f"{size} B"}):
            found, said = resolve(asked, parse_target(**given))
            assert (found.selection.num_removed, found.selection.ratio) == (removed, None)
            assert said.endswith(f": {removed} of 6 layers go")
        for given in ({"parameters": str(parameters - 1)}, {"memory": f"{size - 1}B"}):
            assert resolve(asked, parse_target(**given))[0].selection.num_removed == removed + 1
        whole = load_recipe("reverse", model=str(tmp_path / "model"), dtype="float32")
        in_float32 = resolve(whole, parse_target(memory=str(2 * size)))[0]
        assert in_float32.selection.num_removed == removed


def test_unlike_layers_are_within_it_whichever_go(tmp_path):
    tiny_model("deepseek_v3").save_pretrained(tmp_path / "model")
    asked = load_recipe("reverse", model=str(tmp_path / "model"))
    found, said = resolve(asked, parse_target(latency="0.8"))
    assert "differ in size" in said
    count, model = found.selection.num_removed, str(tmp_path / "model")
    per_layer = inspect_model(model, 0.5)["parameters_per_layer"]
    assert len({*per_layer}) > 1
    head = 128 * 32
    for gone, within in (
        (sum(sorted(per_layer)[:count]), True),
        (sum(sorted(per_layer)[: count - 1]), False),
    ):
        assert ((sum(per_layer) + head - gone) / (sum(per_layer) + head) <= 0.8) == within


def test_the_speed_is_the_one_that_inspect_tells(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    for target in (parse_target(latency="0.7"), parse_target(parameters="40K")):
        found = inspect_files(str(tmp_path), 0.25, target)
        assert found == inspect_model(str(tmp_path), 0.25, target=target)
        count = 6 - found["remaining"]["layers"]
        resolved, said = resolve(load_recipe("reverse", model=str(tmp_path)), target)
        assert (resolved.selection.num_removed, said) == (count, found["target"])
    assert inspect_files(str(tmp_path), 0.25, parse_target(latency="0.7"))["remaining"]["cost_share"] <= 0.7


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"selection.method": "explicit", "selection.remove": "1"}, "takes no amount"),
        ({"selection.protect": "0-4"}, "out of reach: .* with 1 of 6 layers gone"),
        ({"selection.granularity": "sublayer-pairs", "importance.metric": "perplexity"}, "whole layers"),
    ],
)
def test_what_no_number_of_layers_answers_is_refused(tmp_path, settings, text):
    tiny_model().save_pretrained(tmp_path)
    asked = load_recipe("reverse", model=str(tmp_path), **settings)
    with pytest.raises(UserError, match=text):
        resolve(asked, parse_target(latency="0.5"))
