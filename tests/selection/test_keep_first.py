import pytest

from depthprune.errors import UserError
from depthprune.selection import Contiguous, Sizes

SIZES = Sizes(60, [10] * 6)


def test_the_block_measured_is_one_longer_and_its_first_layer_stays():
    chosen = Contiguous(num_removed=2, keep_first=True)
    assert chosen.window(SIZES) == 3 and Contiguous(num_removed=2).window(SIZES) == 2
    found = {"metric": "angular", "scores": [0.0] * 6, "windows": {"3": [0.3, 0.1, 0.2, 0.4]}}
    assert chosen.plan(found, SIZES).removed == (2, 3)
    sums = {"metric": "reverse", "scores": [1, 0, 0, 5, 5, 5]}
    assert chosen.plan(sums, SIZES).removed == (1, 2)


def test_the_first_layer_may_be_protected_and_the_others_may_not():
    found = {"metric": "angular", "scores": [0.0] * 6, "windows": {"3": [0.3, 0.1, 0.2, 0.4]}}
    assert Contiguous(num_removed=2, keep_first=True, protect=(1,)).plan(found, SIZES).removed == (2, 3)
    assert Contiguous(num_removed=2, keep_first=True, protect=(2,)).plan(found, SIZES).removed == (3, 4)
    with pytest.raises(UserError, match="no 2 neighbouring layers"):
        Contiguous(num_removed=2, keep_first=True, protect=(2, 4)).rehearse(SIZES)


def test_all_but_one_may_go_and_the_rehearsal_is_the_deepest():
    assert Contiguous(num_removed=5, keep_first=True).rehearse(SIZES).removed == (1, 2, 3, 4, 5)
    assert Contiguous(num_removed=2, keep_first=True).rehearse(SIZES).removed == (4, 5)
