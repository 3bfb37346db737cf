"""The generator's whole grammar: a template with `[one|another]` choices and `{slots}` becomes a sentence."""

import random
import re

Facts = dict[str, str]

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_ARTICLE = re.compile(r"\b([Aa])(?= [aeiou])")
_SENTENCE_START = re.compile(r"(^|[.?!:] |\n)([a-z])")


def expand(template: str, facts: Facts, rng: random.Random) -> str:
    """Draw every `[a|b|c]` (they nest; an option may be empty), fill the slots, mend articles and capitals.

    Slots are filled after the choices are drawn, so facts may hold any characters, and a colon starts a
    sentence. Raises `KeyError` where a template names a fact that is not there.
    """
    while "[" in template:
        template = _CHOICE.sub(lambda choice: rng.choice(choice[1].split("|")), template)
    text = _ARTICLE.sub(r"\1n", template.format_map(facts))
    return _SENTENCE_START.sub(lambda start: start[1] + start[2].upper(), text)


def one_of(templates: tuple[str, ...], facts: Facts, rng: random.Random) -> str:
    """Expand one of the templates."""
    return expand(rng.choice(templates), facts, rng)


def some_of(templates: tuple[str, ...], count: int, facts: Facts, rng: random.Random) -> str:
    """Expand `count` different templates, in random order, into one paragraph."""
    return " ".join(expand(template, facts, rng) for template in rng.sample(templates, count))
