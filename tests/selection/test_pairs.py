"""Pairs of neighbouring sublayers: which may go, and what is left without them."""

import pytest

from depthprune.errors import UserError
from depthprune.selection import Iterative, OneShot, Sizes
from depthprune.selection.pairs import spoken, stack

SIZES = Sizes(100, [10] * 6)


def plan(scores, across, **settings):
    found = {"metric": "loss", "scores": scores, "across": across, "rounds": []}
    return OneShot(granularity="sublayer-pairs", **settings).plan(found, SIZES)


def test_a_pair_across_two_layers_leaves_one_made_of_both():
    assert stack(6, {5, 6}) == ((3,), {2: 3})
    assert stack(6, {5, 6, 7, 8}) == ((3, 4), {2: 4})  # a run of four
    assert stack(6, {0, 1, 5, 6}) == ((0, 3), {2: 3})
    assert stack(6, {4, 5}) == ((2,), {})
    # A layer made of two goes whole: attention 2 and MLP 3.
    assert stack(6, {5, 6, 4, 7}) == ((2, 3), {})


def test_one_shot_takes_the_lowest_that_share_no_sublayer():
    scores, across = [9.0, 9, 1.5, 9, 9, 2.5], [9.0, 9, 1, 2, 9, 0]
    one = plan(scores, across, num_removed=1)
    assert (one.removed, one.mlp_from) == ((3,), {2: 3})
    # Layer 2 shares its MLP with the first; MLP 3 and attention 4 do not.
    two = plan(scores, across, num_removed=2)
    assert (two.removed, two.mlp_from) == ((3, 4), {2: 4})
    three = plan(scores, across, num_removed=3)
    assert (three.removed, three.mlp_from) == ((3, 4, 5), {2: 4})
    assert plan([1.0] * 6, [1.0] * 6, num_removed=2).removed == (4, 5)  # ties go to the deeper


def test_protected_layers_keep_both_their_sublayers():
    chosen = plan([5.0] * 6, [9.0, 1, 2, 9, 9, 0], num_removed=1, protect="2")
    assert (chosen.removed, chosen.mlp_from) == ((5,), {})


def test_pairs_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"4 pairs .* the 3 lowest .*iterative"):
        plan([9.0] * 6, [1.0, 9, 1, 9, 1, 0], num_removed=4, protect="0,5")


def test_candidates_of_a_stack_that_was_cut_are_its_own():
    selection = Iterative(granularity="sublayer-pairs")
    order = selection.ordered_pairs([float(i) for i in range(6)], [i + 0.5 for i in range(6)], {5, 6})
    assert {pair: score for score, pair in order} == {
        (0, 1): 0.0, (1, 2): 0.5, (2, 3): 1.0, (3, 4): 1.5,
        (4, 7): 2.0, (7, 8): 2.5,  # layer 2 has the MLP of layer 3
        (8, 9): 4.0, (9, 10): 4.5, (10, 11): 5.0,
    }  # fmt: skip
    assert spoken([(4, 7), (8, 9)]) == "attention 2 and MLP 3; layer 4"


def test_recipes_of_whole_layers_are_written_as_ever():
    assert "granularity" not in Iterative().model_dump(mode="json")
    assert Iterative(granularity="sublayer-pairs").model_dump(mode="json")["granularity"] == "sublayer-pairs"
