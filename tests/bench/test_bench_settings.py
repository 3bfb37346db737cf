import pytest

from depthprune.bench.settings import (
    DEFAULT_SHAPES,
    BenchSettings,
    Shape,
    fitting_shapes,
    parse_lengths,
    parse_shapes,
)
from depthprune.errors import UserError
from depthprune.settings import build


def test_shapes_are_batch_by_length():
    assert parse_shapes("1x128, 8x256,1x128") == (Shape(1, 128), Shape(8, 256))


@pytest.mark.parametrize(
    "text", ["", "8", "8x", "0x4", "4x0", "4x00", "axb", "1x2x3", "1x8,,", "-1x4", "1×8"]
)
def test_other_shapes_are_refused_in_one_line(text):
    with pytest.raises(UserError, match="1x128,8x256") as refused:
        parse_shapes(text)
    assert "\n" not in str(refused.value)


def test_draft_lengths():
    assert parse_lengths("2, 4,16") == [2, 4, 16]
    for wrong in ("", "two", "1.5", "2;4", "-1"):
        with pytest.raises(UserError, match="draft-lengths"):
            parse_lengths(wrong)
    for wrong in ([0], [2, 2], []):
        with pytest.raises(UserError, match="draft_lengths"):
            build(BenchSettings, {"draft_lengths": wrong})


def test_default_shapes_are_shortened_to_the_context_and_asked_ones_are_refused():
    assert fitting_shapes(None, 32, None) == fitting_shapes(None, 32, 4096) == list(DEFAULT_SHAPES)
    assert fitting_shapes(None, 14, 64) == [Shape(1, 50), Shape(4, 50)]
    assert fitting_shapes((Shape(2, 50),), 14, 64) == [Shape(2, 50)]
    with pytest.raises(UserError, match="50 at most"):
        fitting_shapes((Shape(2, 51),), 14, 64)
    with pytest.raises(UserError, match="new-tokens"):
        fitting_shapes(None, 64, 64)
