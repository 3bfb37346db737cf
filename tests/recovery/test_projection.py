import copy
import math

import pytest
import torch
from naive_repair import (
    LINEAR,
    calibration,
    naive_loss,
    naive_projection,
    outputs,
    pruned,
    relabelled,
    uniform_model,
)
from tiny import tiny_model

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers, down_projection
from depthprune.recovery import RECOVERIES
from depthprune.recovery.base import Evidence
from depthprune.recovery.projection import Projection
from depthprune.selection import Plan
from depthprune.settings import build


def repair(model, removed, batches, **settings):
    """A repaired copy, still with all of its layers, and the report."""
    model = copy.deepcopy(model)
    plan = Plan(len(decoder_layers(model)), tuple(removed))
    return model, Projection(**settings)(model, plan, Evidence(batches=batches))


def down_weight(model, i):
    return down_projection(decoder_layers(model)[i]).parameter.detach()


def naive_drift(whole, shallow, kept, batches):
    return [
        float((outputs(whole, i, batches).mean(0) - outputs(shallow, new, batches).mean(0)).norm())
        for new, i in enumerate(kept)
    ]


@pytest.mark.parametrize("family", LINEAR)
def test_the_papers_repair_equals_a_naive_one(family):
    model, removed, kept, rho = uniform_model(family), [1, 2], [0, 3, 4], 0.1
    batches = calibration(model)
    drift = naive_drift(model, pruned(model, removed), kept, batches)
    i = max(kept, key=lambda i: drift[kept.index(i)])
    penalty, naive, error = naive_projection(model, removed, i, i, batches[:3], rho)
    batches = relabelled(batches, pruned(naive, removed))

    repaired, report = repair(model, removed, batches, layers=1, rho=(rho,))
    assert report["changed_layers"] == [i]
    assert (report["drift"]["layers"], report["samples"]) == (kept, {"fit": 12, "held_out": 4})
    assert report["drift"]["before"] == pytest.approx(drift, rel=1e-3, abs=1e-5)
    row = report["repairs"][0]
    assert (row["layer"], row["target"], row["rho"]) == (i, i, rho)
    assert row["lambda"] == pytest.approx(penalty, rel=1e-4)
    for name, parameter in naive.named_parameters():
        torch.testing.assert_close(repaired.get_parameter(name), parameter, rtol=1e-3, atol=1e-4)
        if f".{i}." not in name:
            assert torch.equal(repaired.get_parameter(name), model.get_parameter(name))
    # What the map promises is what the pruned model does.
    after = pruned(repaired, removed)
    realised = outputs(model, i, batches[:3]) - outputs(after, kept.index(i), batches[:3])
    assert float(realised.square().sum()) == pytest.approx(error, rel=1e-3)
    assert report["drift"]["after"] == pytest.approx(
        naive_drift(model, after, kept, batches), rel=1e-3, abs=1e-4
    )
    losses = [naive_loss(shallow, batches[3:]) for shallow in (pruned(model, removed), after)]
    assert list(report["held_out_loss"].values()) == pytest.approx(losses, rel=1e-5)


def test_held_out_error_is_that_of_the_held_out_samples():
    model, removed, i = tiny_model("llama", 5), [1, 2], 4
    batches = calibration(model)
    _, naive, _ = naive_projection(model, removed, i, i, batches[:3], 0.1)
    _, report = repair(model, removed, batches, layers=1, rho=(0.1,))
    wanted = outputs(model, i, batches[3:])
    before, after = (outputs(pruned(m, removed), i - 2, batches[3:]) for m in (model, naive))
    (row,) = report["repairs"]
    assert row["layer"] == i
    expected = float((wanted - after).square().sum() / (wanted - before).square().sum())
    assert [candidate["rho"] for candidate in row["candidates"]] == [None, 0.1]
    assert [c["held_out_error"] for c in row["candidates"]] == pytest.approx([1.0, expected], rel=1e-3)


@pytest.mark.parametrize("layers", [1, 2, "gaps", "all"])
@pytest.mark.parametrize("removed", [[1, 3], [2, 3], [3, 5]])
def test_where_repairs_are_made_and_toward_what(layers, removed):
    model, kept = tiny_model("llama", 6), [i for i in range(6) if i not in removed]
    batches = calibration(model)
    _, report = repair(model, removed, batches, layers=layers, rho=(0.1,))
    places = [(row["layer"], row["target"]) for row in report["repairs"]]
    drift = naive_drift(model, pruned(model, removed), kept, batches)
    following = dict(zip(kept, [*kept[1:], 6], strict=True))
    last_before_next_kept = {i: following[i] - 1 for i in kept}
    if layers == "gaps":
        expected = [(i, t) for i, t in last_before_next_kept.items() if t != i]
    elif layers == "all":
        expected = [(i, t) for i, t in last_before_next_kept.items() if i + 1 >= removed[0]]
    else:
        largest = sorted(kept, key=lambda i: -drift[kept.index(i)])[:layers]
        expected = [(i, i) for i in sorted(largest) if drift[kept.index(i)] > 0]
    assert places == expected


def test_later_repairs_look_at_the_repaired_model_and_the_old_targets():
    model, removed = tiny_model("llama", 6), [1, 3]
    batches = calibration(model)
    _, once, _ = naive_projection(model, removed, 0, 1, batches[:3], 0.1)
    _, twice, _ = naive_projection(once, removed, 2, 3, batches[:3], 0.1, original=model)
    batches = relabelled(batches, pruned(twice, removed))
    repaired, report = repair(model, removed, batches, rho=(0.1,))
    assert report["changed_layers"] == [0, 2]
    for i in (0, 2):
        torch.testing.assert_close(down_weight(repaired, i), down_weight(twice, i), rtol=1e-3, atol=1e-4)


def test_a_map_that_raises_the_held_out_loss_is_not_folded_in():
    model, removed = tiny_model("llama", 6), [1, 3]
    batches = calibration(pruned(model, removed))  # the pruned model is right as it is
    repaired, report = repair(model, removed, batches)
    for row in report["repairs"]:
        nothing, *others = [candidate["held_out_loss"] for candidate in row["candidates"]]
        assert len(others) == 5 and all(loss > nothing for loss in others)
        assert (row["rho"], row["lambda"]) == (None, None)
    assert report["changed_layers"] == []
    assert report["held_out_loss"]["after"] == report["held_out_loss"]["before"]
    assert report["drift"]["after"] == report["drift"]["before"]
    assert all(torch.equal(p, repaired.get_parameter(name)) for name, p in model.named_parameters())


def test_the_strength_with_the_lowest_loss_is_chosen():
    model = tiny_model("llama", 6)
    _, report = repair(model, [2, 3], calibration(model))
    (row,) = report["repairs"]
    best = min(row["candidates"], key=lambda candidate: candidate["held_out_loss"])
    assert row["rho"] == best["rho"] is not None
    assert report["held_out_loss"]["after"] == best["held_out_loss"]


@pytest.mark.parametrize(("layers", "removed"), [(1, (4, 5)), (3, (5,)), ("gaps", (0, 1))])
def test_nothing_to_repair_is_said_and_changes_nothing(layers, removed):
    model = tiny_model("llama", 6)
    plan = Projection(layers=layers).complete(Plan(6, removed), [0.0] * 6)
    assert "Nothing is repaired" in plan.notes[0]
    repaired, report = repair(model, removed, calibration(model), layers=layers)
    assert (report["changed_layers"], report["repairs"], report["notes"]) == ([], [], list(plan.notes))
    assert all(torch.equal(p, repaired.get_parameter(name)) for name, p in model.named_parameters())


@pytest.mark.parametrize("layers", ["gaps", "all"])
def test_the_last_kept_layer_makes_up_for_the_deepest(layers):
    model = tiny_model("llama", 6)
    assert Projection(layers=layers).complete(Plan(6, (4, 5)), [0.0] * 6).notes == ()
    _, report = repair(model, (4, 5), calibration(model), layers=layers)
    assert [(row["layer"], row["target"]) for row in report["repairs"]] == [(3, 5)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_oss"])
def test_bf16_weights_stay_so_and_are_chosen_as_stored(family):
    model = uniform_model(family).bfloat16()
    batches = calibration(model)
    _, naive, _ = naive_projection(model, [1, 2], 0, 2, batches[:3], 0.1)
    batches = relabelled(batches, pruned(naive, [1, 2]))
    repaired, report = repair(model, [1, 2], batches, layers="all")
    assert report["changed_layers"]
    assert {p.dtype for p in repaired.parameters()} == {torch.bfloat16}
    assert report["held_out_loss"]["after"] == pytest.approx(
        naive_loss(pruned(repaired, [1, 2]), batches[3:]), rel=1e-3
    )


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_padding_does_not_count(family):
    model = uniform_model(family)
    batches = calibration(model)
    padding = {"input_ids": 7, "attention_mask": 0, "labels": -100}
    padded = [
        {key: torch.nn.functional.pad(value, (0, 5), value=padding[key]) for key, value in batch.items()}
        for batch in batches
    ]
    _, report = repair(model, [1, 2], batches, layers=1)
    _, same = repair(model, [1, 2], padded, layers=1)
    assert same["drift"]["after"] == pytest.approx(report["drift"]["after"], rel=1e-3, abs=1e-4)
    for one, other in zip(same["repairs"][0]["candidates"], report["repairs"][0]["candidates"], strict=True):
        assert one["held_out_error"] == pytest.approx(other["held_out_error"], rel=1e-3)
        assert one["held_out_loss"] == pytest.approx(other["held_out_loss"], rel=1e-4)


def test_a_singular_matrix_is_refused_without_a_ridge_and_solved_with_one():
    model = tiny_model("llama", 6)
    batches = calibration(model, samples=2, batch_size=2)  # 12 tokens to fit 32 dimensions
    with pytest.raises(UserError, match=r"layer 1: .*12 .*singular: .*rho above 0"):
        repair(model, [2], batches, rho=(0.0, 1.0))
    _, report = repair(model, [2], batches, rho=(1.0,))
    assert math.isfinite(report["repairs"][0]["candidates"][1]["held_out_loss"])


@pytest.mark.parametrize("removed", [[1], [3]])
def test_activations_that_are_not_finite_name_the_layer(removed):
    model = tiny_model("llama", 6)
    batches = calibration(model)
    down_weight(model, 2)[0, 0] = math.inf
    with pytest.raises(UserError, match=r"^layer 2 .*not finite"):
        repair(model, removed, batches)


def test_one_sample_cannot_be_split():
    model = tiny_model("llama", 6)
    with pytest.raises(UserError, match="1 calibration sample"):
        repair(model, [2], calibration(model, samples=1, batch_size=1))


def test_layers_that_take_no_map_are_passed_over_and_said():
    model = tiny_model("llama4_text", 6)  # every other layer a mixture that takes none
    batches = calibration(model)
    _, report = repair(model, [2, 3], batches, layers="all")
    assert [row["layer"] for row in report["repairs"]] == [4]
    assert [note[:22] for note in report["notes"]] == ["Layer 1 is not repaire", "Layer 5 is not repaire"]
    _, report = repair(model, [2, 3], batches, layers=1)
    assert [row["layer"] for row in report["repairs"]] == [4]


def test_adam_gives_a_worse_fit_of_the_same_map():
    model = tiny_model("llama", 6)
    batches = calibration(model)
    errors = {}
    for solver in ("closed-form", "adam"):
        _, report = repair(model, [2, 3], batches, layers=1, rho=(0.01,), solver=solver)
        assert report["solver"] == solver
        row = report["repairs"][0]
        errors[solver] = row["candidates"][1]["held_out_error"]
    assert errors["closed-form"] != errors["adam"]
    assert errors["adam"] < 1


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"epochs": 5}, "epochs"),
        ({"learning_rate": 0.1}, "learning_rate"),
        ({"solver": "adam", "epochs": 0}, "epochs"),
        ({"rho": ()}, "rho"),
        ({"rho": (-1.0,)}, "rho"),
        ({"layers": 0}, "layers"),
        ({"layers": "some"}, "layers"),
        ({"held_out": 1.0}, "held_out"),
    ],
)
def test_settings_without_sense_are_refused(settings, key):
    with pytest.raises(UserError, match=rf"recovery\.{key}"):
        build(RECOVERIES["projection"], settings, "recovery")


def test_the_settings_come_back_from_a_saved_recipe():
    for settings in (Projection(), Projection(solver="adam", epochs=3), Projection(layers=2, rho=(0.5,))):
        assert Projection(**settings.model_dump()) == settings
