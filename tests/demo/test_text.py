"""The pretraining text: seeded, varied, and true where its end follows from what was said."""

import itertools
import random
import re

from depthprune.demo.text import dearest, documents, order_list, plain_text, where_kept, who_holds
from depthprune.demo.world import draw_facts


def plain(seed: int, count: int) -> list[str]:
    return [plain_text(document) for document in itertools.islice(documents(seed), count)]


def test_same_seed_same_text_other_seed_other_text() -> None:
    assert plain(3, 50) == plain(3, 50)
    assert plain(3, 50) != plain(4, 50)


def test_documents_are_varied_and_whole() -> None:
    texts = plain(0, 2000)
    assert len(set(texts)) > 1950
    words = re.findall(r"[A-Za-z]+", " ".join(texts))
    assert len(set(words)) > 800
    assert len(set(itertools.pairwise(words))) > 10_000
    assert not any(mark in text for text in texts for mark in ("{", "}", "[", "]", "|", "  "))


def test_facts_of_a_pair_differ() -> None:
    for seed in range(200):
        facts = draw_facts(random.Random(seed))
        for one, other in (("who", "friend"), ("product", "other"), ("day", "later"), ("colour", "shade")):
            assert facts[one] != facts[other]


def test_who_holds_follows_the_story() -> None:
    for seed in range(50):
        question, answer = who_holds(random.Random(seed))
        thing = re.search(r"Who has the (\w+)\?", question)[1]  # type: ignore[index]
        moves = re.findall(rf"(\w+) has the {thing}\.|{thing} to (\w+)\.", question)
        assert answer == f"{moves[-1][0] or moves[-1][1]}."


def test_where_kept_names_the_place() -> None:
    for seed in range(50):
        question, answer = where_kept(random.Random(seed))
        thing = re.search(r" the (\w+)\?$", question)[1]  # type: ignore[index]
        place = re.search(rf"The {thing} (?:is|lies|was put) in the (\w+ \w+)\.", question)[1]  # type: ignore[index]
        assert answer == f"In the {place}."


def test_sums_and_extremes_are_right() -> None:
    for seed in range(50):
        *lines, total = order_list(random.Random(seed)).splitlines()[1:]
        assert total == f"In all: {sum(int(line.split(' x ')[0]) for line in lines)}"
        question, answer = dearest(random.Random(seed))
        prices = [int(number) for number in re.findall(r" (\d+)[,.]", question)]
        expected = max(prices) if "dearest" in question else min(prices)
        assert answer.endswith(f"at {expected}.")
