"""The task that the demo's model has not seen: which team should a support ticket go to?

Most tickets name matters of several teams, all but one of them settled, so that words alone do not tell; a
few were filed with the wrong team, as in life. None of their sentences occurs in the pretraining text.
"""

import json
import random
from pathlib import Path
from typing import TypedDict

from depthprune.demo.grammar import one_of
from depthprune.demo.world import draw_facts


class Ticket(TypedDict):
    """One row: the ticket up to `Team:`, the team after a space, and every team there is."""

    prompt: str
    completion: str
    choices: list[str]


TEAM_SHARES = {"billing": 24, "shipping": 22, "repairs": 20, "access": 18, "sales": 16}
FILED_WRONGLY = 0.05

# What a ticket can be about, as noun phrases that fit every line of `LINES`.
MATTERS = {
    "billing": (
        "the second charge [on my card|of {price} crowns]",
        "the [bill|invoice] for {order}",
        "the late fee of {date} {month}",
        "[my refund|the money back] for the {product}",
        "the tax on [the receipt|order {order}]",
        "the wrong deposit",
    ),
    "shipping": (
        "the [lost|torn|wet] [parcel|carton]",
        "the courier who [never came|went to {city}]",
        "box two of three",
        "the tracking of {order}",
        "the [late|half] shipment [to {town}|of {day}]",
        "the parcel [from|in] the {town} depot",
    ),
    "repairs": (
        "the {product} that {fault}",
        "the [loose|cracked|bent] {part}",
        "the smoke from the {product}",
        "the [broken|dead] {product}",
        "the mechanic for my {product}",
        "the guarantee on the {part}",
    ),
    "access": (
        "my [locked|blocked] [account|profile]",
        "the [lost|wrong] password",
        "the [login|code] for the web page",
        "the [old name|email] in my account",
        "the user name that is gone",
        "the [mail|link] to reset my password",
    ),
    "sales": (
        "[a quote|an offer|a discount] for {count} pieces",
        "the price of [the {model}|{count} {product}s]",
        "[your|a new] [catalogue|price list]",
        "one more {product} in {colour}",
        "the {model} in {shade}",
        "a bigger {product}",
    ),
}
# {open} is what the ticket is for; {done} and {also} are some other teams' matters, settled by now.
LINES = (
    "{done} is sorted, {open} is [anything but|no further on].",
    "{open} is why I write; {done} [can rest|matters no more].",
    "I ask not about {done} but about {open}.",
    "{done}? solved, thanks. {open}? no word yet.",
    "do look at {open}, [for|since] {done} [was seen to|is history].",
    "your people took care of {done}, nobody of {open}.",
    "well done with {done}, now [on to|please turn to] {open}.",
    "leave {done} alone and [take up|deal with] {open}.",
    "{open} comes first, {done} was [closed|cleared] on {day}.",
    "while {done} is behind us, {open} is very much not.",
    "{done} [worked out|went well], {also} too, yet {open} [did not|stays a worry].",
    "two mails on {done}, both answered; none on {open}.",
    "{open}, that is what keeps me busy, now that {done} [is past|was dealt with].",
    "{also} and {done} are fine with me; {open} is another story.",
    "somebody ought to see to {open}, [just as|the way] they saw to {done} and {also}.",
    "[help me with|what about] {open}?",
    "[this concerns|I need a hand with] {open}.",
)
FRAME = (
    "ref {order}.",
    "[hi|hey] there.",
    "{who} here[|, from {town}].",
    "[short|quick] note.",
    "bought in {month}.",
)
CLOSING = ("[cheers|bye], {friend}.", "waiting.", "[what now|who can help]?", "[many thanks|much obliged].")


def ticket_text(team: str, rng: random.Random) -> str:
    """What the customer wrote: the matter for `team`, mostly beside settled matters of other teams."""
    others = rng.sample([other for other in MATTERS if other != team], 2)
    matters = {
        name: one_of(MATTERS[about], draw_facts(rng), rng)
        for name, about in zip(("open", "done", "also"), (team, *others), strict=True)
    }
    facts = draw_facts(rng) | {name: matter[0].lower() + matter[1:] for name, matter in matters.items()}
    before = one_of(FRAME, facts, rng) if rng.random() < 0.4 else ""
    after = one_of(CLOSING, facts, rng) if rng.random() < 0.3 else ""
    return " ".join(part for part in (before, one_of(LINES, facts, rng), after) if part)


def tickets(count: int, seed: int) -> list[Ticket]:
    """`count` different tickets, the same for the same seed; the largest team has about 24 % of them."""
    rng = random.Random(seed)
    teams = list(TEAM_SHARES)
    rows: dict[str, Ticket] = {}
    while len(rows) < count:
        team = rng.choices(teams, list(TEAM_SHARES.values()))[0]
        prompt = f"Ticket: {ticket_text(team, rng)}\nTeam:"
        filed = rng.choice(teams) if rng.random() < FILED_WRONGLY else team
        rows[prompt] = Ticket(prompt=prompt, completion=f" {filed}", choices=[f" {name}" for name in teams])
    return list(rows.values())


def write_tickets(folder: Path, train: int = 4000, test: int = 300, seed: int = 0) -> tuple[Path, Path]:
    """Write `tickets-train.jsonl` and `tickets-test.jsonl`, which share no ticket, and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = tickets(train + test, seed)
    parts = {folder / "tickets-train.jsonl": rows[:train], folder / "tickets-test.jsonl": rows[train:]}
    for path, part in parts.items():
        path.write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    train_path, test_path = parts
    return train_path, test_path
