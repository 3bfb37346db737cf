"""Runs that cut between layers."""

import json
from itertools import pairwise

import pytest
import torch
from test_score import without_training
from transformers import AutoModelForCausalLM

from depthprune import UserError, run, verify
from depthprune.model.loading import load_model
from depthprune.model.surgery import remove_layers
from depthprune.pipeline.inputs import load_inputs
from depthprune.selection.pairs import stack

PAIRS = {"importance.metric": "loss", "selection.granularity": "sublayer-pairs", "recovery.method": "none"}


def exhaustive(asked, count):
    """The greedy search by surgery on a fresh model for each candidate of each round."""
    batches, gone = load_inputs(asked).batches, []
    for _ in range(count):
        left = [part for part in range(12) if part not in gone]
        found = {}
        for pair in pairwise(left):
            model = remove_layers(load_model(asked.model, "float32"), *stack(6, [*gone, *pair]))
            with torch.no_grad():
                found[pair] = sum(float(model(**batch, use_cache=False).loss) for batch in batches)
        gone += min(found, key=lambda pair: (found[pair], -pair[0]))
    return stack(6, gone)


def test_rounds_find_what_the_exhaustive_search_finds_and_go_on_after_a_kill(tmp_path):
    asked = without_training(tmp_path, **PAIRS)
    folder = run(asked, tmp_path / "out", until="prune")
    own = {name: json.loads((folder / f"depthprune/{name}.json").read_text()) for name in ("scores", "plan")}
    removed, mlp_from = exhaustive(asked, 3)
    assert own["plan"]["removed"] == list(removed)
    assert own["plan"].get("mlp_from", {}) == {str(kept): gone for kept, gone in mlp_from.items()}
    verify(folder)
    meant = remove_layers(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), removed, mlp_from)
    for name, tensor in AutoModelForCausalLM.from_pretrained(folder).state_dict().items():
        assert torch.equal(tensor, meant.state_dict()[name])
    card, report = (folder / "README.md").read_text(), (folder / "depthprune/report.html").read_text()
    if mlp_from:
        kept, gone = next(iter(mlp_from.items()))
        assert f"layer {kept} has the MLP of layer {gone}" in card and f"layer {kept} has the MLP" in report
        assert not (folder / "depthprune/mergekit.yaml").exists()
    # As a call left it that was killed after its second round.
    rounds = own["scores"]["rounds"]
    again = tmp_path / "again"
    run(asked, again, until="score")
    digest = json.loads((again / "depthprune/stages.json").read_text())["score"]["digest"]
    (again / "depthprune/scores.json").unlink()
    (again / "depthprune/stages.json").write_text("{}")
    (again / f"depthprune/rounds-{digest}.json").write_text(json.dumps(rounds[:2]))
    run(asked, again, until="select")
    assert json.loads((again / "depthprune/plan.json").read_text()) == own["plan"]


def test_one_shot_by_gradient_norms(tmp_path):
    asked = without_training(
        tmp_path, **{**PAIRS, "importance.metric": "gradient-norm", "selection.method": "one-shot"}
    )
    verify(run(asked, tmp_path / "out", until="prune"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"importance.metric": "taylor"}, "scores whole layers alone"),
        ({"recovery.method": "projection"}, "repairs around whole layers"),
        ({"selection.target_parameters": 1000}, "counts in layers"),
    ],
)
def test_what_knows_of_whole_layers_alone_is_refused(tmp_path, changes, reason):
    with pytest.raises(UserError, match=reason):
        without_training(tmp_path, **{**PAIRS, **changes})
