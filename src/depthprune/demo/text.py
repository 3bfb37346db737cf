"""The demo's pretraining text: short documents of a dozen kinds about the made-up company, without end.

Some kinds only need words that go together; in others the end follows from what was said before (who holds
which thing, what became of whom, sums, lists repeated in order), so that a model has use for its depth.
"""

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from depthprune.demo import templates, world
from depthprune.demo.grammar import expand, one_of, some_of


class Exchange(NamedTuple):
    """A question and its answer; in training it wears the chat template."""

    question: str
    answer: str


Conversation = list[Exchange]
Document = str | Conversation


def profile(rng: random.Random) -> str:
    """A person of the company's towns."""
    facts = world.draw_facts(rng)
    first, *rest = templates.LIFE
    return expand(first, facts, rng) + " " + some_of(tuple(rest), rng.randint(3, 5), facts, rng)


def product_page(rng: random.Random) -> str:
    """A page of the catalogue."""
    facts = world.draw_facts(rng)
    first, *rest = templates.PRODUCT_PAGE
    return expand(first, facts, rng) + " " + some_of(tuple(rest), rng.randint(3, 6), facts, rng)


def instructions(rng: random.Random) -> str:
    """Numbered steps, in their order."""
    facts = world.draw_facts(rng)
    steps = [templates.STEPS[i] for i in sorted(rng.sample(range(len(templates.STEPS)), rng.randint(4, 7)))]
    title = expand("how to [mend|care for|open] the {model} {product}", facts, rng)
    lines = [expand(f"{number}. {step}.", facts, rng) for number, step in enumerate(steps, start=1)]
    return "\n".join([title, *lines])


def workday(rng: random.Random) -> str:
    """A short tale from the shop."""
    return some_of(templates.WORKDAY, rng.randint(4, 7), world.draw_facts(rng), rng)


def letter(rng: random.Random) -> str:
    """A customer's trouble and the company's answer to it."""
    facts = world.draw_facts(rng)
    troubles, answers = templates.TROUBLE[rng.choice(list(templates.TROUBLE))]
    lines = [one_of(troubles, facts, rng) + "."]
    lines += [expand(line, facts, rng) for line in rng.sample(templates.LETTER_MIDDLE, rng.randint(0, 2))]
    rng.shuffle(lines)
    opening = one_of(templates.LETTER_OPENING, facts, rng)
    reply = expand(f"{templates.REPLY_OPENING} {rng.choice(answers)}. {templates.REPLY_END}", facts, rng)
    return f"{opening} {' '.join(lines)} {facts['who']} {facts['surname']}.\n{reply}"


def minutes(rng: random.Random) -> str:
    """A meeting, and at its end who was there."""
    facts = world.draw_facts(rng)
    head = expand("meeting in {town}, {day}, {date} {month}.", facts, rng)
    return (
        f"{head} {some_of(templates.MINUTES, 4, facts, rng)} Present: {facts['who']} and {facts['friend']}."
    )


def order_list(rng: random.Random) -> str:
    """An order, its lines, and the number of pieces in all."""
    lines = [(rng.randint(1, 9), product) for product in rng.sample(world.PRODUCTS, rng.randint(2, 4))]
    head = expand("order {order} from {town}, to be sent on {day}.", world.draw_facts(rng), rng)
    body = [f"{count} x {product.name}" for count, product in lines]
    return "\n".join([head, *body, f"In all: {sum(count for count, _ in lines)}"])


def read_back(rng: random.Random) -> str:
    """Items are read out, and read back in the same order."""
    items = [
        f"{rng.choice(world.COLOURS)} {rng.choice(world.OBJECTS)} {rng.randint(1, 99)}"
        for _ in range(rng.randint(3, 8))
    ]
    reader, writer = world.first_names(2, rng)
    return f"{reader} reads out: {', '.join(items)}.\n{writer} reads back: {', '.join(items)}."


def who_holds(rng: random.Random) -> Conversation:
    """Things are handed on between people; who has them at the end?"""
    count = rng.randint(2, 4)
    people, things = world.first_names(count + 1, rng), rng.sample(world.OBJECTS, count)
    holder = dict(zip(things, people, strict=False))
    story = [f"{person} has the {thing}." for thing, person in holder.items()]
    for _ in range(rng.randint(0, 2)):
        thing = rng.choice(things)
        receiver = rng.choice([person for person in people if person != holder[thing]])
        verb = rng.choice(("gives", "hands", "lends", "sends"))
        story.append(f"{holder[thing]} {verb} the {thing} to {receiver}.")
        holder[thing] = receiver
    asked = rng.sample(things, 2)
    return _about(
        " ".join(story), [Exchange(f"Who has the {thing}?", f"{holder[thing]}.") for thing in asked]
    )


def where_kept(rng: random.Random) -> Conversation:
    """Several things in several places, in mixed order; where are they?"""
    count = rng.randint(2, 5)
    things, places = rng.sample(world.OBJECTS, count), rng.sample(world.PLACES, count)
    story = expand(
        " ".join(
            f"the {thing} [is|lies|was put] in the {place}."
            for thing, place in zip(things, places, strict=True)
        ),
        {},
        rng,
    )
    asked = rng.sample(range(count), 2)
    return _about(
        story,
        [Exchange(f"Where is the {things[i]}?", f"The {things[i]} is in the {places[i]}.") for i in asked],
    )


def _about(story: str, exchanges: list[Exchange]) -> Conversation:
    first, *rest = exchanges
    return [Exchange(f"{story} {first.question}", first.answer), *rest]


def still_open(rng: random.Random) -> Conversation:
    """Several matters, all but one of them settled; which one is left?"""
    products = rng.sample(world.PRODUCTS, 3)
    left = rng.randrange(3)
    story = [
        expand(
            templates.WAITING if i == left else templates.SETTLED, {"thing": p.name, "fault": p.fault}, rng
        )
        for i, p in enumerate(products)
    ]
    question = rng.choice(templates.WHAT_IS_LEFT)
    return [Exchange(f"{' '.join(story)} {question}", f"The {products[left].name}.")]


def one_of_two(rng: random.Random) -> Conversation:
    """Two matters in one sentence, one settled; which one is left?"""
    done, left = rng.sample(world.PRODUCTS, 2)
    sentence = one_of(templates.ONE_OF_TWO, {"done": done.name, "left": left.name}, rng)
    return [Exchange(f"{sentence} {rng.choice(templates.WHAT_IS_LEFT)}", f"The {left.name}.")]


def dearest(rng: random.Random) -> Conversation:
    """A few prices; which thing is the dearest, or the cheapest?"""
    products, prices = rng.sample(world.PRODUCTS, 3), rng.sample(range(10, 100), 3)
    listed = ", ".join(f"the {product.name} {price}" for product, price in zip(products, prices, strict=True))
    word, extreme = rng.choice((("dearest", max), ("cheapest", min)))
    asked = prices.index(extreme(prices))
    question = f"In crowns: {listed}. Which is the {word}?"
    return [Exchange(question, f"The {products[asked].name}, at {prices[asked]}.")]


def about_products(rng: random.Random) -> Conversation:
    """A question about a product of the catalogue."""
    question, answer = rng.choice(templates.CATALOGUE_QUESTIONS)
    facts = world.draw_facts(rng)
    return [Exchange(expand(question, facts, rng), expand(answer, facts, rng))]


KINDS: dict[Callable[[random.Random], Document], int] = {
    profile: 2,
    product_page: 2,
    instructions: 2,
    workday: 2,
    letter: 5,
    minutes: 1,
    order_list: 1,
    read_back: 3,
    who_holds: 3,
    where_kept: 4,
    still_open: 2,
    one_of_two: 3,
    dearest: 1,
    about_products: 1,
}
"""Each kind of document and its weight."""


def documents(seed: int) -> Iterator[Document]:
    """Documents without end, the same for the same seed."""
    rng = random.Random(seed)
    kinds, weights = list(KINDS), list(KINDS.values())
    while True:
        yield rng.choices(kinds, weights)[0](rng)


def plain_text(document: Document) -> str:
    """The words alone, one turn a line."""
    if isinstance(document, str):
        return document
    return "\n".join(turn for exchange in document for turn in exchange)
