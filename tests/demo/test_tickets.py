"""The tickets: seeded, disjoint, unseen in the pretraining text, neither one-sided nor trivial."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

from depthprune.demo import tickets, write_tickets
from depthprune.demo.text import documents, plain_text
from depthprune.demo.tickets import TEAM_SHARES


def sentences(text: str) -> set[str]:
    return {part for part in re.split(r"(?<=[.?!])\s|\n", text) if part}


def ticket_of(prompt: str) -> str:
    return prompt.removeprefix("Ticket: ").removesuffix("\nTeam:")


def test_seeded_and_all_different() -> None:
    rows = tickets(400, 5)
    assert rows == tickets(400, 5)
    assert rows != tickets(400, 6)
    assert len({row["prompt"] for row in rows}) == 400


def test_rows_are_multiple_choice_over_every_team() -> None:
    rows = tickets(1000, 0)
    teams = [f" {team}" for team in TEAM_SHARES]
    assert all(row["choices"] == teams and row["completion"] in teams for row in rows)
    counts = Counter(row["completion"] for row in rows)
    assert set(counts) == set(teams)
    assert max(counts.values()) < 300


def test_no_ticket_sentence_in_the_pretraining_text() -> None:
    seen: set[str] = set()
    for document in itertools.islice(documents(1), 5000):
        seen |= sentences(plain_text(document))
    asked = set().union(*(sentences(ticket_of(row["prompt"])) for row in tickets(2000, 0)))
    assert len(asked) > 1500
    assert asked.isdisjoint(seen)


def test_written_files_share_no_ticket(tmp_path: Path) -> None:
    train, test = write_tickets(tmp_path / "task", train=300, test=100, seed=2)
    rows = [[json.loads(line) for line in path.read_text().splitlines()] for path in (train, test)]
    assert [len(part) for part in rows] == [300, 100]
    assert {row["prompt"] for row in rows[0]}.isdisjoint(row["prompt"] for row in rows[1])
    assert rows[0] + rows[1] == tickets(400, 2)
