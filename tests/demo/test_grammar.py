"""The grammar: choices nest, slots are filled afterwards, articles and capitals are mended."""

import random

import pytest

from depthprune.demo.grammar import expand, one_of, some_of


def test_every_nested_choice_is_drawn() -> None:
    rng = random.Random(0)
    drawn = {expand("[a [b|c]|d]", {}, rng) for _ in range(100)}
    assert drawn == {"A b", "A c", "D"}


def test_articles_and_sentence_starts() -> None:
    text = expand(
        "she has a {thing}. is it a {thing}? note: a {part}.\na line",
        {"thing": "iron", "part": "lid"},
        random.Random(0),
    )
    assert text == "She has an iron. Is it an iron? Note: A lid.\nA line"


def test_brackets_in_facts_are_left_alone() -> None:
    assert expand("see {note}", {"note": "[x|y] {z}"}, random.Random(0)) == "See [x|y] {z}"


def test_unknown_slot_is_an_error() -> None:
    with pytest.raises(KeyError):
        expand("{nobody}", {}, random.Random(0))


def test_templates_are_drawn_from_the_list() -> None:
    rng = random.Random(0)
    assert {one_of(("one.", "two."), {}, rng) for _ in range(50)} == {"One.", "Two."}
    assert sorted(some_of(("one.", "two.", "three."), 2, {}, rng).split())[0] in {"One.", "Three."}
    assert len(set(some_of(("one.", "two.", "three."), 3, {}, rng).split())) == 3
