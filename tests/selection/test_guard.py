import math

import pytest

from depthprune import UserError
from depthprune.recipe.load import load_recipe
from depthprune.selection import Contiguous, Iterative, OneShot, Plan, Sizes
from depthprune.selection.guard import affordable, guard_notes, opinion_sentence, vital_layers, worse_notes

SIZES = Sizes(600, [100] * 6)


def test_vital_are_the_layers_without_which_alone_perplexity_rises_beyond_the_factor():
    whole = 2.0
    without = [whole + math.log(times) for times in (30, 1.2, 4_000, 9.9, 10.1, 0.9)]
    assert list(vital_layers(without, whole, 10.0)) == [2, 0, 4]
    assert vital_layers(without, whole, 10.0)[0] == pytest.approx(30)
    assert vital_layers([700.0, 2.0], whole, 1e9)[0] > 1e300  # a loss that was no number


@pytest.mark.parametrize(
    ("selection", "kept"),
    [
        (OneShot(num_removed=3), [5, 4, 3]),
        (OneShot(num_removed=3, protect=(0,)), [5, 4]),
        (Iterative(num_removed=5), [5]),
        (Contiguous(num_removed=2), [5, 4, 3, 2]),
        (Contiguous(num_removed=3, protect=(1,)), [5]),
    ],
)
def test_the_guard_gives_way_where_too_few_others_may_go(selection, kept):
    vital = {5: 1e6, 4: 1e5, 3: 1e4, 2: 1e3}
    assert affordable(selection, vital, SIZES) == kept
    assert len(selection.keeping(kept).rehearse(SIZES).removed) == selection.num_removed


def test_a_guarded_layer_stays_whatever_it_scores():
    found = {"metric": "m", "scores": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]}
    assert OneShot(num_removed=2).keeping([1, 4]).plan(found, SIZES).removed == (0, 2)
    assert Contiguous(num_removed=2).keeping([1]).plan(found, SIZES).removed == (2, 3)


def test_the_notes_name_what_was_kept_what_went_and_where_it_gave_way():
    guard = {"factor": 10.0, "vital": {"5": 2e5, "1": 31.4}, "kept": [5], "spared": [5], "instead": [3]}
    kept, went, gone = guard_notes(guard, (1, 3))
    assert kept.startswith("The guard kept layer 5: without it alone, perplexity is 200,000 times the whole")
    assert went == "In its place layer 3 went."
    assert "31.4 times without layer 1 alone" in gone
    assert guard_notes({**guard, "vital": {}, "spared": [], "instead": []}, (1, 3)) == []


def test_only_a_clearly_better_control_is_warned_of_and_the_best_of_them():
    controls = [
        {"name": "a", "removed": [1], "perplexity": 40.0, "clearly_better": True},
        {"name": "b", "removed": [4, 5], "perplexity": 37.6, "clearly_better": True},
        {"name": "c", "removed": [2], "perplexity": 30.0, "clearly_better": False},
    ]
    opinion = {"samples": 32, "whole": 28.3, "bare_cut": 9125.0, "controls": controls}
    (note,) = worse_notes(opinion)
    assert "without layers 4, 5 (b) perplexity is 37.6, after this plan's bare cut 9,125" in note
    assert worse_notes({**opinion, "controls": controls[2:]}) == []
    assert opinion_sentence(opinion).startswith(
        "Perplexity on 32 calibration samples: whole model 28.3; bare"
    )


def test_a_plan_without_an_opinion_is_written_as_before_and_one_with_it_comes_back():
    bare = Plan(6, (1, 2))
    assert "opinion" not in bare.to_json() and Plan.from_json(bare.to_json()) == bare
    told = Plan(6, (1, 2), opinion={"whole": 28.3})
    assert Plan.from_json(told.to_json()) == told


def test_the_default_guard_counts_in_no_digest_and_another_does():
    recipe = load_recipe("sleb")
    assert recipe.selection.guard == 10 and "guard" not in recipe.selection.counted()
    digests = {
        load_recipe("sleb", **{"selection.guard": guard}).digest("selection") for guard in (10.0, 5, "none")
    }
    assert len(digests) == 3 and recipe.digest("selection") in digests
    with pytest.raises(UserError, match=r"selection\.guard"):
        load_recipe("sleb", **{"selection.guard": 0.5})
    with pytest.raises(UserError, match="no such setting"):
        load_recipe("laco", **{"selection.guard": 5})
