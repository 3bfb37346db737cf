"""The demo's pretraining text: short documents of a dozen kinds about the made-up company, without end.

Some kinds only need words that go together; in others the end follows from what was said before (who holds
which thing, which matter is still open, sums and prices), so that a model has use for its depth.
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


Document = str | Exchange


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


def who_holds(rng: random.Random) -> Exchange:
    """Things are handed on between people; who has one of them at the end?"""
    people, things = world.first_names(4, rng), rng.sample(world.OBJECTS, 3)
    holder = dict(zip(things, people, strict=False))
    story = [f"{person} has the {thing}." for thing, person in holder.items()]
    for _ in range(rng.randint(1, 3)):
        thing = rng.choice(things)
        receiver = rng.choice([person for person in people if person != holder[thing]])
        verb = rng.choice(("gives", "hands", "lends", "sends"))
        story.append(f"{holder[thing]} {verb} the {thing} to {receiver}.")
        holder[thing] = receiver
    thing = rng.choice(things)
    return Exchange(f"{' '.join(story)} Who has the {thing}?", f"{holder[thing]}.")


def where_kept(rng: random.Random) -> Exchange:
    """Several things in several places, in mixed order; where is one of them?"""
    things, places = rng.sample(world.OBJECTS, 4), rng.sample(world.PLACES, 4)
    colours = rng.sample(world.COLOURS, 4)
    story = [
        f"The {thing} [is|lies|was put] in the {colour} {place}."
        for thing, colour, place in zip(things, colours, places, strict=True)
    ]
    asked = rng.randrange(4)
    question = expand(" ".join(story) + f" [where is|where can I find] the {things[asked]}?", {}, rng)
    return Exchange(question, f"In the {colours[asked]} {places[asked]}.")


def still_open(rng: random.Random) -> Exchange:
    """Several matters, all but one of them settled; which one is left?"""
    products = rng.sample(world.PRODUCTS, 3)
    left = rng.randrange(3)
    settled = (
        "the {0} "
        "[arrived late, but it is here now|{1} no longer|was mended|was dear, but it is paid|is fine again]."
    )
    waiting = "[we still wait for|nobody has looked at|nothing was done about] the {0}.|the {0} still {1}."
    story = [
        expand(f"[{waiting if i == left else settled}]".format(product.name, product.fault), {}, rng)
        for i, product in enumerate(products)
    ]
    question = rng.choice(("Which one is still open?", "What is left to do?", "What needs our help?"))
    return Exchange(f"{' '.join(story)} {question}", f"The {products[left].name}.")


def dearest(rng: random.Random) -> Exchange:
    """A few prices; which thing is the dearest, or the cheapest?"""
    products, prices = rng.sample(world.PRODUCTS, 3), rng.sample(range(10, 100), 3)
    listed = ", ".join(f"the {product.name} {price}" for product, price in zip(products, prices, strict=True))
    word, extreme = rng.choice((("dearest", max), ("cheapest", min)))
    asked = prices.index(extreme(prices))
    return Exchange(
        f"In crowns: {listed}. Which is the {word}?", f"The {products[asked].name}, at {prices[asked]}."
    )


def about_products(rng: random.Random) -> Exchange:
    """A question about a product of the catalogue."""
    question, answer = rng.choice(
        (
            ("what does a {product} do?", "it {use}."),
            ("my {product} {fault}. [what can I do|which part is it]?", "look at the {part}."),
            ("how do I care for my {product}?", "{care} now and then."),
            ("which thing {use}?", "the {product}."),
            ("where is the {part}?", "in the {product}."),
        )
    )
    facts = world.draw_facts(rng)
    return Exchange(expand(question, facts, rng), expand(answer, facts, rng))


KINDS: dict[Callable[[random.Random], Document], int] = {
    profile: 3,
    product_page: 3,
    instructions: 2,
    workday: 4,
    letter: 6,
    minutes: 2,
    order_list: 1,
    who_holds: 3,
    where_kept: 3,
    still_open: 3,
    dearest: 2,
    about_products: 2,
}
"""Each kind of document and its weight."""


def documents(seed: int) -> Iterator[Document]:
    """Documents without end, the same for the same seed."""
    rng = random.Random(seed)
    kinds, weights = list(KINDS), list(KINDS.values())
    while True:
        yield rng.choices(kinds, weights)[0](rng)


def plain_text(document: Document) -> str:
    """The words alone: of an exchange, question and answer on a line each."""
    return document if isinstance(document, str) else "\n".join(document)
