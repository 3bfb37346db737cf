"""`depthprune bench` as a user types it, on tiny models."""

import json

import pytest
from calling import refused
from runs import LAYERS, llama, model_folder
from tiny_tokenizer import tiny_tokenizer

SMALL = ["--shapes=1x8,2x6", "--new-tokens=4", "--seconds=0.1"]
WHAT = ["prefill", "decode", "LoRA step", "full step"]


@pytest.fixture
def cut(cli, lab):
    assert cli("prune", "--model=model", "--remove=2-3", "--output=cut")[0] == 0
    return lab


def test_a_cut_beside_its_base_as_json(cli, cut):
    before = sorted(cut.rglob("*"))
    code, out, err = cli("bench", "cut", "--against=model", "--json", *SMALL)
    assert code == 0, err
    found = json.loads(out)["bench"]
    assert (found["model"]["layers"], found["against"]["layers"]) == (LAYERS - 2, LAYERS)
    assert [(row["shape"], row["what"]) for row in found["rows"]] == [
        (shape, what) for shape in ([1, 8], [2, 6]) for what in WHAT
    ]
    assert [row["tokens"] for row in found["rows"]] == [8, 3, 8, 8, 12, 6, 12, 12]
    for row in found["rows"]:
        assert 4 / 6 <= row["ideal"]["flops"] < 1 and 4 / 6 <= row["ideal"]["bytes"] < 1
        assert 0 < row["peak_ratio"] < 1
        assert row["ratio"]["processor time"]["n"] >= 5
    assert found["left_out"] == []
    assert sorted(cut.rglob("*")) == before


def test_a_model_against_itself_counts_the_same(cli, lab):
    found = json.loads(cli("bench", "model", "--against=model", "--json", *SMALL, "--shapes=1x8")[1])["bench"]
    for row in found["rows"]:
        assert row["ideal"] == {"flops": 1.0, "bytes": 1.0}
        assert row["peak_ratio"] == pytest.approx(1, abs=0.01)


def test_one_model_alone_and_what_cannot_be_trained_is_said(cli, lab):
    llama(tiny_tokenizer()).save_pretrained(lab / "bare")  # without a tokenizer
    code, out, err = cli("bench", "bare", *SMALL)
    assert code == 0, err
    assert "prefill" in out and "decode" in out and "ratio" not in out
    assert out.count("has no tokenizer") == 2
    assert "1 thread(s)" in " ".join(out.split())


def test_a_cut_as_the_draft_of_its_base(cli, cut):
    asked = ["bench", "cut", "--draft-for=model", "--prompts=test.jsonl", "--new-tokens=6", "--seconds=0.1"]
    code, out, err = cli(*asked, "--draft-lengths=2", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert list(found) == ["draft"]
    (row,) = found["draft"]["rows"]
    assert row["differing"] == [] and 0 <= row["accepted_per_step"] <= 2
    code, out, err = cli(*asked)
    assert code == 0, err
    assert "8 of 8" in out


REFUSED = {
    "--shapes=8": "1x128",
    "--shapes=1x127": "120 at most",
    "--new-tokens=1": "new_tokens",
    "--new-tokens=128": "--new-tokens",
    "--seconds=0": "seconds",
    "--seconds=nan": "seconds",
    "--draft-lengths=0": "draft_lengths",
    "--against=nowhere": "nowhere",
    "--draft-for=model": "--prompts",
    "--draft-for=other": "vocabulary",
    "--prompts=test.jsonl": "--draft-for",
    "--chat-template=none.jinja": "--draft-for",
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_cannot_be_measured_is_one_line(cli, lab, option):
    if option == "--draft-for=other":
        model_folder(lab / "other", merges=(("a", "b"),))
    assert REFUSED[option] in refused(cli, lab, "bench", "model", option)


def test_a_draft_whose_base_cannot_go_back(cli, lab):
    from tiny import tiny_model

    tokenizer = tiny_tokenizer()
    for name in ("hybrid", "draft"):
        tiny_model("qwen3_next", vocab_size=len(tokenizer)).save_pretrained(lab / name)
        tokenizer.save_pretrained(lab / name)
    line = refused(cli, lab, "bench", "draft", "--draft-for=hybrid", "--prompts=test.jsonl")
    assert "hybrid with draft as its draft" in line
