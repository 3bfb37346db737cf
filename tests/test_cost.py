import pytest

from depthprune import cost
from depthprune.cost import Advancing, measured, progress, spoken, with_progress


@pytest.fixture
def clock(monkeypatch):
    """The time, which the test sets: an item takes what the test adds to it."""
    now = [0.0]
    monkeypatch.setattr(cost.time, "monotonic", lambda: now[0])
    return now


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_the_first_items_say_how_long_the_rest_takes_and_then_a_line_a_minute(clock, caplog):
    caplog.set_level("INFO", logger="depthprune")
    for _ in with_progress(range(10), "score"):
        clock[0] += 40
    assert lines(caplog) == [
        "score: 10 % done, about 6 min left",
        "score: 30 % done, about 5 min left",
        "score: 50 % done, about 3 min left",
        "score: 70 % done, about 2 min left",
        "score: 90 % done, about 40 s left",
    ]


def test_what_is_soon_done_says_nothing(clock, caplog):
    caplog.set_level("INFO", logger="depthprune")
    for _ in with_progress(range(10), "score"):
        clock[0] += 1
    assert lines(caplog) == []


def test_sizes_weigh_the_items(clock, caplog):
    caplog.set_level("INFO", logger="depthprune")
    assert list(with_progress("ab", "x", [30, 10])) == ["a", "b"]
    with progress(100, "y") as advance:
        clock[0] += 50
        advance(25)
    assert lines(caplog) == ["y: 25 % done, about 2 min left"]


def test_items_that_cannot_be_counted_come_as_they_are():
    assert list(with_progress((i for i in range(3)), "x")) == [0, 1, 2]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "about 1 s"), (200, "about 3 min"), (9e3, "about 2.5 h")],
)
def test_a_time_in_words(seconds, words):
    assert spoken(seconds) == words


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert list(with_progress(range(3), "score")) == [0, 1, 2]
    assert "score" in capsys.readouterr().err


def test_seconds_and_memory_are_filled_in():
    with measured() as found:
        pass
    assert found["seconds"] >= 0 and found["peak_bytes"] > 0


def test_items_that_are_gone_through_again_tell_each_time():
    told = []
    items = Advancing([1, 2], told.append)
    assert [*items, *items] == [1, 2, 1, 2]
    assert told == [1, 1, 1, 1]
