import json

import pytest
import torch
from tiny import tiny_model

from depthprune import Plan, UserError, select_layers
from depthprune.model.anatomy import parameters_per_layer
from depthprune.model.surgery import remove_layers
from depthprune.selection import (
    Contiguous,
    Explicit,
    Iterative,
    OneShot,
    Sizes,
    count_from_ratio,
    parse_layers,
)

SIZES = Sizes(100, [10] * 8)


def refused(message, function, *args, **kwargs):
    """Calls and expects a refusal of one line with this text."""
    with pytest.raises(UserError) as refusal:
        function(*args, **kwargs)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "ratio, layers, count",
    [
        (0.25, 26, 6),  # 6.5 → even
        (0.25, 30, 8),  # 7.5 → even
        (0.4, 32, 13),
        (0.25, 32, 8),
        (0.125, 32, 4),
        (0.3, 16, 5),
        (0.07, 150, 10),  # 10.5; in floats 10.500000000000002
        (0.35, 10, 4),  # 3.5
        (1e-05, 50000, 0),
    ],
)
def test_the_count_is_rounded_half_to_even_in_exact_arithmetic(ratio, layers, count):
    assert count_from_ratio(ratio, layers) == count


def test_the_lowest_scores_go():
    plan = select_layers([5.0, 1.0, 3.0, 0.5, 4.0, 2.0, 9.0, 8.0], 0.375)
    assert plan.removed == (1, 3, 5) and plan.kept == (0, 2, 4, 6, 7)
    assert (plan.num_layers, plan.ratio, plan.selection) == (8, 0.375, "one-shot")


def test_tensors_and_the_default_ratio():
    assert select_layers(torch.arange(8.0)).removed == (0, 1)


@pytest.mark.parametrize("count", range(1, 8))
def test_ties_go_to_the_deeper_layer(count):
    assert select_layers([1.0] * 8, num_removed=count).removed == tuple(range(8 - count, 8))


def test_a_tie_at_the_edge_goes_to_the_deeper_layer():
    assert select_layers([3, 1, 0, 1, 1, 2], num_removed=3).removed == (2, 3, 4)


@pytest.mark.parametrize(
    "protect, removed",
    [
        ((), (0, 1)),
        ((0, 1), (2, 3)),
        ("0-2", (3, 4)),
        ((0, -7), (2, 3)),
        ([0, "1-3", -1], (4, 5)),
        ("-8,1", (2, 3)),
    ],
)
def test_protected_layers_stay(protect, removed):
    assert select_layers(range(8), 0.25, protect).removed == removed


def test_num_removed_takes_the_place_of_the_ratio():
    assert select_layers(range(8), 0.5, num_removed=1).removed == (0,)


def test_target_parameters_are_reached_with_as_few_layers_as_possible():
    per_layer = [10, 20, 30, 40]
    for target, removed in [(99, (3,)), (60, (3,)), (59, (2, 3)), (30, (2, 3)), (29, (1, 2, 3))]:
        plan = select_layers([4, 3, 2, 1], target_parameters=target, parameters=(100, per_layer))
        assert plan.removed == removed
        assert 100 - sum(per_layer[i] for i in plan.removed) <= target


def test_target_parameters_on_a_model():
    model = tiny_model(layers=6)
    total = sum(parameter.numel() for parameter in model.parameters())
    target = total - 2 * parameters_per_layer(model)[0]
    for asked, count in [(target, 2), (target + 1, 2), (target - 1, 3)]:
        plan = select_layers(
            range(6), target_parameters=asked, parameters=(total, parameters_per_layer(model))
        )
        assert len(plan.removed) == count
    remove_layers(model, select_layers(range(6), num_removed=2).removed)
    assert sum(parameter.numel() for parameter in model.parameters()) == target


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5])
def test_a_ratio_outside_zero_and_one_is_refused(ratio):
    refused(f"ratio is {ratio}: it is the share of layers to remove", select_layers, range(8), ratio)


def test_a_ratio_that_is_no_number_is_refused():
    refused("ratio is nan: input should be a finite number", select_layers, range(8), float("nan"))


def test_requests_that_no_plan_can_meet_are_refused():
    refused("ratio 0.05 of 8 layers rounds to none", select_layers, range(8), 0.05)
    refused("the smallest ratio that removes one is about 0.125", select_layers, range(8), 0.05)
    refused("ratio 0.99 of 8 layers rounds to all of them", select_layers, range(8), 0.99)
    refused("nothing says how much to remove", select_layers, range(8), None)
    for count in (0, 8, -1):
        refused(f"{count} of 8 layers cannot be removed", select_layers, range(8), num_removed=count)
    refused("4 of 8 layers are to go but 5 are protected", select_layers, range(8), 0.5, "0-4")
    refused("layer 8 is not in this model, whose layers are 0 to 7", select_layers, range(8), 0.5, (8,))
    refused("layer -9 is not in this model", select_layers, range(8), 0.5, (-9,))
    refused(
        "the igia scores hold a value that is not finite", select_layers, [1, float("nan")], metric="igia"
    )
    refused("not finite", select_layers, [1, float("inf")])


def test_target_parameters_that_cannot_be_met_are_refused():
    counts = (100, [10, 20, 30])
    refused("the model has 100 already", select_layers, range(3), target_parameters=100, parameters=counts)
    refused("40 remain without any", select_layers, range(3), target_parameters=39, parameters=counts)
    refused("3 of 3 layers cannot", select_layers, range(3), target_parameters=40, parameters=counts)
    refused("pass parameters=(total, per layer)", select_layers, range(3), target_parameters=40)


@pytest.mark.parametrize(
    "text, layers",
    [
        ("18-21", [18, 19, 20, 21]),
        ("1,3,5-7", [1, 3, 5, 6, 7]),
        (" 1 , 2 ", [1, 2]),
        ("-1", [-1]),
        (-1, [-1]),
        (4, [4]),
        ([18, "20-22", -1], [18, 20, 21, 22, -1]),
        ("5-5", [5]),
        ((), []),
        (range(2), [0, 1]),
    ],
)
def test_layers_are_written_as_indices_and_inclusive_ranges(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize(
    "text", ["", "a", "1-", "1--3", "１", "٣-٤", "1;2", "1.5", [1.5], None, True, 2.0, "1 - 3", [[1, 2]]]
)
def test_layers_that_cannot_be_read_are_refused(text):
    refused("write indices and inclusive ranges, such as 18-30", parse_layers, text)


@pytest.mark.parametrize(
    "text",
    ["0-99999999999", "1-" + "9" * 5000, "9" * 5000, 10**30, "-" + "9" * 50, ",".join(["0-9999"] * 1000)],
)
def test_more_layers_than_any_model_has_are_refused(text):
    refused("layers", parse_layers, text)


def test_a_backward_range_is_refused():
    refused("layers '30-18': the range runs backwards; write 18-30", parse_layers, "30-18")


@pytest.mark.parametrize(
    "settings, removed",
    [
        ({"remove": "2-4"}, (2, 3, 4)),
        ({"remove": [4, 2, 2]}, (2, 4)),
        ({"remove": "-1,0"}, (0, 7)),
        ({"keep": "0-4,7"}, (5, 6)),
        ({"keep": [-1]}, (0, 1, 2, 3, 4, 5, 6)),
    ],
)
def test_explicit_layers(settings, removed):
    plan = Explicit(**settings).rehearse(SIZES)
    assert plan.removed == removed and plan.selection == "explicit"


def test_explicit_layers_that_are_wrong_are_refused():
    refused("takes either selection.remove or selection.keep", Explicit().rehearse, SIZES)
    refused("takes either", Explicit(remove="1", keep="2").rehearse, SIZES)
    refused("8 of 8 layers would go", Explicit(remove="0-7").rehearse, SIZES)
    refused("0 of 8 layers would go", Explicit(keep="0-7").rehearse, SIZES)
    refused("layer 8 is not in this model", Explicit(remove="6-8").rehearse, SIZES)


def test_settings_parse_their_layers():
    assert OneShot(protect="0-2,-1").protect == (0, 1, 2, -1)
    refused("layers 'x'", OneShot, protect="x")


def test_the_plan_in_json_has_the_keys_of_the_contract_and_comes_back():
    plan = Plan(6, (2, 4), "igia", "one-shot", {4: 3, 2: 1}, ("a note",))
    written = json.loads(json.dumps(plan.to_json()))
    assert written == {
        "num_layers": 6,
        "removed": [2, 4],
        "kept": [0, 1, 3, 5],
        "merged_into": {"2": 1, "4": 3},
        "ratio": 2 / 6,
        "metric": "igia",
        "selection": "one-shot",
        "notes": ["a note"],
    }
    assert list(written["merged_into"]) == ["2", "4"]
    assert Plan.from_json(written) == plan


def rounds_of(selection, sizes, score):
    """What a run writes: score the rest, drop the lowest, and again."""
    rounds, removed = [], []
    while not selection.is_done(removed, sizes):
        scores = score(removed)
        went = selection.next_layers(scores, removed, sizes)
        rounds.append(
            {"removed": went, "scores": [None if i in removed else s for i, s in enumerate(scores)]}
        )
        removed += went
    return {"metric": "loss", "scores": rounds[0]["scores"], "rounds": rounds}


def neighbours_matter(removed):
    """Layer 3 is the least important, and its neighbours become the most important without it."""
    scores = [5.0, 4.0, 1.5, 1.0, 1.6, 3.0, 2.0, 8.0]
    return [s + 10 if {i - 1, i + 1} & set(removed) else s for i, s in enumerate(scores)]


def test_each_round_sees_what_the_last_one_removed():
    found = rounds_of(Iterative(ratio=0.375), SIZES, neighbours_matter)
    assert [r["removed"] for r in found["rounds"]] == [[3], [6], [1]]
    assert found["rounds"][1]["scores"][3] is None
    plan = Iterative(ratio=0.375).plan(found, SIZES)
    assert plan.removed == (1, 3, 6) and plan.selection == "iterative" and plan.metric == "loss"
    assert OneShot(ratio=0.375).plan(found, SIZES).removed == (2, 3, 4)


def test_a_step_removes_several_and_the_last_round_only_what_is_left():
    rounds = rounds_of(Iterative(num_removed=5, step=2), SIZES, lambda _: list(range(8)))["rounds"]
    assert [r["removed"] for r in rounds] == [[0, 1], [2, 3], [4]]


def test_protected_layers_and_ties_hold_in_every_round():
    rounds = rounds_of(Iterative(num_removed=3, protect="-1,5"), SIZES, lambda _: [0.0] * 8)["rounds"]
    assert [r["removed"] for r in rounds] == [[6], [4], [3]]


def test_rounds_end_when_the_target_is_reached():
    sizes = Sizes(100, [5, 5, 10, 10, 10, 10, 20, 20])
    found = rounds_of(Iterative(target_parameters=62, ratio=None, step=3), sizes, lambda _: list(range(8)))
    assert [r["removed"] for r in found["rounds"]] == [[0, 1, 2], [3, 4]]
    assert sum(sizes.per_layer[i] for i in Iterative().plan(found, sizes).removed) == 40


def test_iterative_selection_is_refused_where_one_shot_would_be():
    for settings, message in (
        ({"ratio": 0.01}, "rounds to none"),
        ({"num_removed": 8}, "8 of 8 layers cannot be removed"),
        ({"num_removed": 4, "protect": "0-5"}, "4 of 8 layers are to go but 6 are protected"),
        ({"protect": "9"}, "layer 9 is not in this model"),
        ({"target_parameters": 200}, "the model has 100 already"),
    ):
        refused(message, Iterative(**settings).rehearse, SIZES)
        refused(message, OneShot(**settings).rehearse, SIZES)


def test_scores_that_are_not_finite_are_refused_in_any_round():
    rounds = [{"removed": [1], "scores": [1.0, float("nan"), 2.0]}]
    refused("not finite", Iterative().plan, {"metric": "m", "rounds": rounds}, Sizes(3, [1, 1, 1]))


def test_the_block_with_the_smallest_distance_goes():
    found = {"metric": "angular", "scores": [0.0] * 8, "windows": {"3": [0.5, 0.4, 0.2, 0.3, 0.2, 0.6]}}
    plan = Contiguous(ratio=0.375).plan(found, SIZES)
    assert plan.removed == (4, 5, 6) and plan.selection == "contiguous"  # of two equals the deeper one
    assert Contiguous(num_removed=3, protect="5").plan(found, SIZES).removed == (2, 3, 4)


def test_without_windows_a_block_counts_the_sum_of_its_layers():
    found = {"metric": "block-influence", "scores": [9.0, 1.0, 8.0, 3.0, 2.0, 4.0, 9.0, 9.0]}
    assert Contiguous(num_removed=3).plan(found, SIZES).removed == (3, 4, 5)


def test_a_block_that_finds_no_room_is_refused():
    refused("no 3 neighbouring layers of 8", Contiguous(num_removed=3, protect="2,5").rehearse, SIZES)
    assert Contiguous(num_removed=2, protect="2,5").rehearse(SIZES).removed == (6, 7)
