"""The time of a token, by depth."""

import json

import pytest
import torch
from compare.results_of import result
from tiny import tiny_model

from depthprune.compare.latency import decoding, known_latency, measure_latency
from depthprune.compare.page import html_page
from depthprune.compare.results import Results
from depthprune.compare.table import comparison

ROWS = [1.0] * 9 + [0.0]
SOURCES = {"model": "x/lab", "train": None, "eval": (), "calibration": None}
FOUND = {"share": 0.7, "error": 0.01, "of": "processor time"}
ENVIRONMENT = {"arithmetic": {"model": "abc", "dtype": "float32"}, "accelerator": None}


def test_both_models_write_the_same_number_of_tokens():
    models = {"pruned": tiny_model(layers=1), "whole": tiny_model(layers=3)}
    calls = dict.fromkeys(models, 0)
    for name, model in models.items():

        def count(*_, name=name):
            calls[name] += 1

        model.register_forward_hook(count)
    found = decoding(models, torch.ones(1, 8, dtype=torch.long))
    assert calls["pruned"] == calls["whole"] and calls["whole"] % 8 == 0  # a prefill and seven steps a round
    assert found["share"] > 0 and found["error"] > 0 and {*found["seconds"]} == {*models}


def test_what_was_measured_of_another_model_or_machine_does_not_count(tmp_path):
    kept = {"measured_as": {"model": "abc", "dtype": "float32", "accelerator": None}, "layers": {"4": FOUND}}
    (tmp_path / "latency.json").write_text(json.dumps(kept))
    assert known_latency(tmp_path, ENVIRONMENT) == {"4": FOUND}
    assert known_latency(tmp_path, {**ENVIRONMENT, "accelerator": {"name": "other"}}) == {}
    assert known_latency(tmp_path, {"arithmetic": {"model": "abd", "dtype": "float32"}}) == {}
    (tmp_path / "latency.json").write_text("{")
    assert known_latency(tmp_path, ENVIRONMENT) == {}


def test_what_cannot_be_measured_stops_nothing(tmp_path, caplog):
    results = Results([result("a", ROWS)], {}, [], ENVIRONMENT, SOURCES)
    assert not measure_latency(tmp_path, tmp_path, [], results)
    assert "latency is not measured" in caplog.text and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("latency", "charts"), [({}, 2), ({"4": FOUND}, 4), ({"5": FOUND}, 2)])
def test_quality_is_drawn_against_latency_where_every_depth_is_known(latency, charts):
    dense = result("dense", ROWS, ratio=None, removed=(), tuning="lora")
    found = comparison(Results([dense, result("a", ROWS)], {}, [], {}, SOURCES, latency))
    page = html_page(found)
    assert page.count("<svg") == charts
    assert ("70.0%‡" in page) == (charts == 4)
    older = {**found, "rows": [{k: v for k, v in row.items() if k != "latency"} for row in found["rows"]]}
    assert html_page(older).count("<svg") == 2
