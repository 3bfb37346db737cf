"""What comparison.json says, and no more than the tests allow."""

import json
from dataclasses import replace
from html import unescape

import pytest
from compare.results_of import result

from depthprune.compare.page import html_page, marks
from depthprune.compare.plots import pareto
from depthprune.compare.results import Results
from depthprune.compare.table import comparison, grouped

GOOD, BAD = [1.0] * 90 + [0.0] * 10, [1.0] * 30 + [0.0] * 70
NEARLY = [1.0] * 89 + [0.0] * 11


def found(done, **rest):
    return comparison(
        Results(
            done,
            rest.get("failed", {}),
            rest.get("missing", []),
            {},
            {"model": "x/lab", "train": None, "eval": (), "calibration": None},
        )
    )


def test_a_clear_difference_is_said_and_a_tie_is_called_one():
    said = found([result("a", GOOD), result("b", BAD), result("c", NEARLY)])
    assert said["sentences"] == [
        "With 25% of the layers gone, a has the best accuracy on news (100 rows), clearly better than b; "
        "not told apart from it: c.",
        "With one seed, the tests know the noise of the rows and not that of tuning again.",
    ]
    assert marks(said) == {(0.25, "a", 0): "best", (0.25, "c", 0): "tied"}


def test_the_best_of_ties_only():
    said = found([result("a", GOOD), result("c", NEARLY)])
    assert "but nothing tells it apart from c." in said["sentences"][0]


def test_that_no_model_beats_guessing_is_said():
    done = [result("a", BAD), result("b", BAD)]
    measure = ("news", "accuracy")
    guessed = [replace(one, results={measure: {**one.results[measure], "majority": 0.31}}) for one in done]
    assert "news no model is more than two standard errors above" in found(guessed)["sentences"][-1]
    beating = [replace(one, results={measure: {**one.results[measure], "majority": 0.1}}) for one in done]
    assert not any("majority" in sentence for sentence in found(beating)["sentences"])


def test_means_spread_and_share_of_the_whole():
    dense = result("dense", GOOD, 1, None, removed=(), tuning="other")
    runs = [result("a", GOOD, 1), result("a", BAD, 2), dense]
    said = found(runs, failed={"z-1": "why"}, missing=["y-1"])
    dense, row = said["rows"]
    assert (dense["method"], dense["ratio"], row["seeds"]) == ("dense", None, [1, 2])
    (value,) = row["values"]
    assert (
        value["each"] == [0.9, 0.3] and abs(value["mean"] - 0.6) < 1e-9 and abs(value["kept"] - 0.75) < 1e-9
    )
    assert said["failed"] == {"z-1": "why"} and said["missing"] == ["y-1"]
    assert list(grouped(runs)) == [(None, "dense"), (0.25, "a")]
    json.dumps(said, allow_nan=False)


def test_shares_are_of_the_whole_model_that_was_tuned_alike():
    # Untuned 0.8; tuned one way 0.9 and 0.7 over two seeds, which is 0.8; the other way 0.6.
    of_two = [
        result("dense lora", [1.0] * n + [0.0] * (100 - n), s, None, removed=())
        for s, n in ((1, 90), (2, 70))
    ]
    of_two = [replace(one, tuning="lora") for one in of_two]
    one = result("dense full", [1.0] * 60 + [0.0] * 40, 1, None, removed=(), tuning="full")
    half = [1.0] * 48 + [0.0] * 52
    pruned = [result(way, half, tuning=way) for way in ("lora", "full", "partial")] + [result("bare", half)]
    rows = {row["method"]: row for row in found([*of_two, one, *pruned])["rows"]}
    kept = {name: (row["kept_of"], round(row["values"][0]["kept"], 9)) for name, row in rows.items()}
    assert kept == {
        "dense lora": ("dense lora", 1.0),
        "dense full": ("dense full", 1.0),
        "lora": ("dense lora", 0.6),
        "full": ("dense full", 0.8),
        "partial": (None, 0.6),  # none was tuned so: 0.48 of the untuned 0.8
        "bare": (None, 0.6),
    }


def test_of_losses_the_share_is_the_whole_models_over_it_and_bare_cuts_are_held_against_the_untuned():
    loss = ("text", "loss")
    dense = result("dense", [2.0, 2.0], ratio=None, measure=loss, removed=(), base=4.0, tuning="lora")
    cut = {loss: {**dense.results[loss], "value": 5.0}}
    pruned = result("a", [2.0, 3.0], measure=loss, base=4.0, tuning="lora")
    row = found([dense, replace(pruned, cut=cut)])["rows"][1]
    assert row["values"][0]["kept"] == pytest.approx(2.0 / 2.5)
    assert row["cut"][0]["kept"] == pytest.approx(4.0 / 5.0)


@pytest.mark.parametrize(
    ("tunings", "words", "daggers"),
    [
        (("lora", "lora"), "of the whole model's, tuned alike. The", 0),
        (("lora", "full"), "of the whole model's, tuned alike; with †, of the untuned one's. The", 2),
        ((None, None), "of the whole model's, untuned. The", 0),
    ],
)
def test_the_page_says_of_which_whole_model_the_shares_are(tunings, words, daggers):
    dense = [result("dense", GOOD, ratio=None, removed=(), tuning="lora")] if any(tunings) else []
    pruned = [result(name, BAD, tuning=way) for name, way in zip("ab", tunings, strict=True)]
    page = html_page(found([*dense, *pruned]))
    assert words in unescape(page) and page.count("†") == daggers


def test_nothing_done_yet_is_a_page_too():
    page = html_page(found([], missing=["a", "b"]))
    assert "Unfinished: 2 runs of 2 still to come" in page and "<table" not in page


def test_every_number_of_a_row_is_on_the_page():
    said = found([result("a", GOOD), result("b", BAD, removed=(3,))])
    page = html_page(said)
    for row in said["rows"]:
        assert f'value="{row["values"][0]["mean"]}"' in page and f'value="{row["parameters"]}"' in page
    assert page.count("<svg") == 2 and "http" not in page.replace("http://www.w3.org", "")


def test_names_that_are_markup_stay_text():
    page = html_page(found([result("<script>x</script>", GOOD), result("b", BAD)]))
    assert "<script>x" not in page


def test_pareto_front():
    points = [(0.5, 0.6), (0.6, 0.5), (0.7, 0.8), (0.5, 0.4), (1.0, 0.8)]
    assert pareto(points) == [(0.5, 0.6), (0.7, 0.8)]
    assert pareto(points, lower_is_better=True) == [(0.5, 0.4)]
