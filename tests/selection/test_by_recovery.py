import pytest

from depthprune.errors import UserError
from depthprune.selection import ByRecovery, Sizes

SIZES = Sizes(100, [10, 10, 20, 10, 10, 10])


def test_it_counts_what_is_missing():
    assert ByRecovery(ratio=0.5).missing([], SIZES) == 3
    assert ByRecovery(ratio=0.5).missing([2, 5], SIZES) == 1
    assert ByRecovery(num_removed=2).missing([1, 4], SIZES) == 0


def test_parameters_are_counted_of_the_layers_that_went():
    by_size = ByRecovery(target_parameters=75)
    assert by_size.missing([], SIZES) == 3  # 5, 4 and 3 by way of example
    assert by_size.missing([2], SIZES) == 1 and by_size.missing([1], SIZES) == 2
    assert by_size.missing([1, 2], SIZES) == 0


def test_protected_layers_are_not_removable():
    assert ByRecovery(protect="0,-1").removable(SIZES) == {1, 2, 3, 4}
    with pytest.raises(UserError, match="2 are protected"):
        ByRecovery(num_removed=5, protect="0,-1").missing([], SIZES)


def test_the_rehearsal_removes_as_many():
    assert ByRecovery(ratio=0.5).rehearse(SIZES).removed == (3, 4, 5)
