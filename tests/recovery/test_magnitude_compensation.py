import json

import pytest
from runs import recipe, write_jsonl
from tiny import tiny_batch, tiny_model

from depthprune import UserError, run
from depthprune.importance.loss import Loss
from depthprune.model.loading import load_model
from depthprune.model.skip import skipped
from depthprune.pipeline.inputs import load_inputs
from depthprune.recipe.load import load_recipe
from depthprune.recovery.activations import mean_loss
from depthprune.recovery.base import Evidence
from depthprune.recovery.magnitude_compensation import MagnitudeCompensation
from depthprune.recovery.stretch import gap_factors, log_norms, stretched
from depthprune.selection import Plan

BATCHES = [tiny_batch(batch_size=4, seed=seed) for seed in range(3)]


def test_a_factor_is_folded_only_where_it_lowers_the_held_out_loss():
    plan, kept = Plan(6, (1, 3)), set()
    for seed in range(4):
        model = tiny_model(seed=seed)
        report = MagnitudeCompensation()(model, plan, Evidence(batches=BATCHES))
        losses = [report["held_out_loss"]["before"]]
        for row in report["stretches"]:
            assert row["kept"] == (row["held_out_loss"] < losses[-1])
            kept.add(row["kept"])
            losses += [row["held_out_loss"]] if row["kept"] else []
        assert report["held_out_loss"]["after"] == losses[-1]
        held_out = BATCHES[2:]
        held_out = [{key: value[-3:] for key, value in batch.items()} for batch in held_out]
        assert mean_loss(model, held_out, plan.removed) == pytest.approx(losses[-1], rel=1e-3)
        first = next((row["gap"] for row in report["stretches"] if row["kept"]), 6)
        assert report["changed_layers"] == [i for i in plan.kept if i > first]
    assert kept == {True, False}


def test_compensated_rounds_score_the_stretched_stream(tmp_path):
    write_jsonl(tmp_path / "text.jsonl", [{"text": "some words of no use " * 30} for _ in range(4)])
    settings = {
        "train": None,
        "eval": (),
        "calibration": str(tmp_path / "text.jsonl"),
        "calibration_samples.samples": 4,
        "calibration_samples.length": 32,
        "selection.num_removed": 2,
        "selection.compensate": True,
        "arithmetic": "float32",
        "recovery.method": "magnitude-compensation",
        "training.method": "none",
    }
    folder = run(recipe(tmp_path, "sleb", **settings), tmp_path / "out", until="prune")
    own = folder / "depthprune"
    rounds = json.loads((own / "scores.json").read_text())["rounds"]
    batches = load_inputs(recipe(tmp_path, "sleb", **settings)).batches
    model = load_model(str(tmp_path / "model"))
    removed = rounds[0]["removed"]
    factors = gap_factors(log_norms(model, batches), removed)
    with skipped(model, removed), stretched(model, factors):
        expected = Loss()(model, batches)
    for i, score in enumerate(rounds[1]["scores"]):
        assert (score is None) == (i in removed)
        if score is not None:
            assert score == pytest.approx(float(expected[i]), abs=1e-5)
    assert json.loads((own / "recovery.json").read_text())["method"] == "magnitude-compensation"


@pytest.mark.parametrize(
    ("name", "overrides", "reason"),
    [
        ("sleb", {}, "does not make one"),
        ("random", {"selection.method": "iterative"}, "does not look at calibration samples"),
    ],
)
def test_compensated_rounds_need_scores_that_see_it_and_the_recovery(name, overrides, reason):
    with pytest.raises(UserError, match=reason):
        load_recipe(name, **{**overrides, "selection.compensate": True})
