"""Runs that take attentions and MLPs out one by one."""

import json

import pytest
import torch
from test_score import without_training
from transformers import AutoModelForCausalLM

from depthprune import UserError, run, verify
from depthprune.model.loading import load_model
from depthprune.model.silence import SIDES, silence
from depthprune.model.skeleton import skeleton
from depthprune.model.sublayers import layer_sides
from depthprune.pipeline.inputs import load_inputs


def greedy(asked, count):
    """The search by zeros in a fresh model for each candidate of each round."""
    inputs = load_inputs(asked)
    sides, gone = layer_sides(skeleton(inputs.config)), []
    for _ in range(count):
        found = {}
        for part in set(range(12)) - set(gone):
            model = load_model(asked.model, "float32")
            for other in (*gone, part):
                silence(model, {other // 2: (SIDES[other % 2],)}, sides)
            with torch.no_grad():
                found[part] = sum(float(model(**batch, use_cache=False).loss) for batch in inputs.batches)
        gone.append(min(found, key=lambda part: (found[part], -part)))
    return gone


def test_blockpruner_finds_what_the_exhaustive_search_finds_and_says_what_it_left(tmp_path):
    asked = without_training(tmp_path, "blockpruner", **{"selection.ratio": 0.34})
    folder = run(asked, tmp_path / "out", until="prune")
    verify(folder)
    plan = json.loads((folder / "depthprune/plan.json").read_text())
    scores = json.loads((folder / "depthprune/scores.json").read_text())
    gone = greedy(asked, 4)
    assert [part for round_ in scores["rounds"] for part in round_["sublayers"]] == gone
    removed = [i for i in range(6) if {2 * i, 2 * i + 1} <= set(gone)]
    alone = sorted(part for part in gone if part // 2 not in removed)
    assert plan["removed"] == removed
    assert plan.get("silenced", {}) == {str(part // 2): [SIDES[part % 2]] for part in alone}
    saved = AutoModelForCausalLM.from_pretrained(folder)
    assert saved.config.num_hidden_layers == 6 - len(removed)
    for part in alone:
        layer = saved.model.layers[plan["kept"].index(part // 2)]
        end = layer.mlp.down_proj if part % 2 else layer.self_attn.o_proj
        assert not end.weight.any()
    if alone:
        for text in (folder / "README.md", folder / "depthprune/report.html"):
            assert "stay as zeros" in text.read_text()


def test_finercut_and_one_shot(tmp_path):
    verify(
        run(without_training(tmp_path, "finercut", **{"selection.num_removed": 1}), tmp_path / "a", "prune")
    )
    asked = {"selection.num_removed": 2, "selection.method": "one-shot"}
    verify(run(without_training(tmp_path, "blockpruner", **asked), tmp_path / "b", "prune"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"importance.metric": "taylor"}, "does not score attentions"),
        ({"recovery.method": "projection"}, "would fill them"),
        ({"training.method": "lora", "train": "rows.jsonl"}, "would fill them"),
        ({"selection.granularity": "layers", "importance.metric": "output-change"}, "granularity=sublayers"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, changes, reason):
    with pytest.raises(UserError, match=reason):
        without_training(tmp_path, "blockpruner", **changes)
