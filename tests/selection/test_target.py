"""How many layers a size or a speed asks for, held against trying every choice of layers."""

from itertools import combinations

import pytest

from depthprune import UserError
from depthprune.selection.target import parse_target

LAYERS, HEAD, TOTAL = [10, 20, 30, 40], 50, 170


def enough(measure: str, most: float, staying: set[int]) -> int:
    """The smallest number of layers for which every choice is within the target."""
    for count in range(1, 4):
        left = []
        for gone in combinations([i for i in range(4) if i not in staying], count):
            kept = sum(LAYERS[i] for i in range(4) if i not in gone)
            left.append(
                {"parameters": 70 + kept, "memory": 2 * (70 + kept), "latency": (kept + HEAD) / (100 + HEAD)}
            )
        if left and all(one[measure] <= most for one in left):
            return count
    return 0


@pytest.mark.parametrize("staying", [set(), {0}, {3, 1}])
@pytest.mark.parametrize(
    ("measure", "most"),
    [*(("parameters", m) for m in range(75, 169, 3)), ("memory", 300), ("latency", 0.5), ("latency", 0.9)],
)
def test_any_choice_of_so_many_layers_is_within_the_target(measure, most, staying):
    target = parse_target(**{measure: str(most)})
    if wanted := enough(measure, most, staying):
        assert target.layers_to_go(LAYERS, TOTAL, HEAD, 2, staying) == wanted
    else:
        with pytest.raises(UserError, match=f"--target-{measure} {most} is out of reach"):
            target.layers_to_go(LAYERS, TOTAL, HEAD, 2, staying)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("parameters", "6e9", 6e9),
        ("parameters", "1.5B", 1.5e9),
        ("parameters", "350m", 350e6),
        ("memory", "12GB", 12e9),
        ("memory", "12 gib", 12 * 2**30),
        ("memory", "800M", 800e6),
        ("memory", "1e9", 1e9),
        ("memory", "64KiB", 65536),
        ("latency", "0.7", 0.7),
        ("latency", ".7", 0.7),
    ],
)
def test_numbers_as_people_write_them(name, text, value):
    assert parse_target(**{name: text}).most == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("parameters", text) for text in ("many", "6GB", "0", "-6e9")),
        *(("memory", text) for text in ("12 XB", "iB", "1..2GB", "inf", "1e999", "")),
        *(("latency", text) for text in ("1", "0", "70%", "nan")),
    ],
)
def test_what_is_no_such_number_is_refused(name, text):
    with pytest.raises(UserError, match=f"--target-{name} .*such as"):
        parse_target(**{name: text})


def test_a_target_that_is_met_and_two_of_them():
    with pytest.raises(UserError, match="the whole model has 170 parameters already"):
        parse_target(parameters="170").layers_to_go(LAYERS, TOTAL, HEAD, 2)
    with pytest.raises(UserError, match="--target-parameters and --target-latency"):
        parse_target(parameters="6e9", latency="0.5")
    assert parse_target(memory=None) is None


def test_it_says_where_the_layers_differ():
    target = parse_target(memory="12GB")
    assert target.said(3, [5] * 8) == "--target-memory 12GB: 3 of 8 layers go"
    assert "differ in size" in target.said(2, LAYERS)
