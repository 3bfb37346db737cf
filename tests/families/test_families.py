"""A few types of different kinds in each run of the tests; `make test-families` walks them all."""

import json

import pytest
from check import PASSES, REMOVALS, check_removals
from page import PAGE, with_results
from walk import RESULTS

KINDS = {
    "llama": PASSES,
    "gpt2": PASSES,
    "gemma3": PASSES,  # with its tower
    "glmga": PASSES,  # whose config is of another class than its model's
    "kosmos-2.5": PASSES,  # does not count padding as a position, and writes it
    "zaya": PASSES,  # hands its router's state on from layer to layer
    "deepseek_v3": PASSES,
    "bamba": PASSES,
    "exaone": PASSES,  # its layers have other names on disk
    "dory": PASSES,  # passes some layers twice
    "qwen3_vl": "image features are added at its layers 0 to 1 by their numbers",
    "beam": "attn_residual_add_idx of layer 3",
    "diffllama": "lambda_init of layer 3",
}


@pytest.mark.parametrize("kind", KINDS)
def test_layers_go_or_are_refused(kind):
    found = check_removals(kind, {"scattered": REMOVALS["scattered"]})
    assert KINDS[kind] in found["scattered"]


def test_the_page_says_what_the_walk_found():
    found = json.loads(RESULTS.read_text())
    text = PAGE.read_text()
    assert with_results(text, found) == text
    assert not [kind for kind, result in found["types"].items() if result["status"] == "FAULT"]
    assert sum(result["status"] in ("passes", "partly") for result in found["types"].values()) >= 120
