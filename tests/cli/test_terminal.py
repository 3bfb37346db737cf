"""Strings from outside are printed as they are, and never obeyed."""

import io
import json
import sys
from pathlib import Path

import pytest
from calling import refused, run_arguments
from runs import rows, write_jsonl

from depthprune.cli import terminal
from depthprune.errors import OBEYED, plain

HOSTILE = [
    "x[/]y",
    "[bold]a[/bold]",
    "\x1b[31mred\x1b[0m",
    "a\x07\x08b",
    "\u202egnp",
    "\x9b2J",
    "caf\udce9",
    "ä → b",
]


def test_what_a_terminal_obeys_is_written_out():
    assert plain("a\x1b[0m\u202eb\x9b\udce9\tä\n") == "a\\x1b[0m\\u202eb\\x9b\\udce9\tä\n"
    assert terminal.one_line("a\nb\r\n") == "a\\nb\\r\\n"
    assert json.loads(terminal.as_json({"a\x1b": ["\u202e\x9b\udce9ä", 1]})) == {
        "a\x1b": ["\u202e\x9b\udce9ä", 1]
    }
    assert not OBEYED.search(terminal.as_json(HOSTILE))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_printed_as_it_is(cli, lab, name):
    (lab / name).parent.mkdir(exist_ok=True)
    write_jsonl(lab / f"{name}.jsonl", rows(8, seed=1))
    shown, name_of_data = plain(name), Path(name).name
    code, out, err = cli("evaluate", "--model=model", f"--eval={name}.jsonl")
    assert code == 0, err
    assert plain(name_of_data) in out and not OBEYED.search(out + err.replace("\r", ""))
    code, out, err = cli("evaluate", "--model=model", f"--eval={name}.jsonl", "--json")
    assert json.loads(out)["rows"]["model"]["results"][0]["dataset"] == name_of_data
    assert not OBEYED.search(out)
    assert shown in refused(cli, lab, *run_arguments(train=f"no {name}.jsonl"))
    assert shown in refused(cli, lab, "run", f"no {name}", "--model=model")
    assert shown in refused(cli, lab, "verify", f"no/such/{name}")


def test_a_folder_with_markup_in_its_name(cli, lab):
    for folder in ("m[", "c[", "o["):
        (lab / folder).mkdir()
    (lab / "model").rename(lab / "m[/]x")
    (lab / "test.jsonl").rename(lab / "t[b]est.jsonl")
    code, out, err = cli(*run_arguments(model="m[/]x", eval="t[b]est.jsonl", output="o[/]ut"))
    assert code == 0, err
    assert "o[/]ut: the model" in out.replace("\n", "") and "t[b]est" in out
    code, out, err = cli("prune", "--model=m[/]x", "--remove=1", "--output=c[/]ut")
    assert code == 0 and "c[/]ut: written" in out
    assert "m[/]x" in cli(*run_arguments(model="m[/]x", eval="t[b]est.jsonl"), "--dry-run")[1]
    assert cli("verify", "c[/]ut")[1].startswith("c[/]ut: whole")


def test_an_ascii_terminal_gets_what_it_can_show(cli, lab, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    write_jsonl(lab / "ä–b.jsonl", rows(8, seed=1))
    for arguments in (
        ["methods"],
        ["inspect", "model"],
        [*run_arguments(eval="ä–b.jsonl", output="öut"), "--dry-run"],
        ["evaluate", "--model=model", "--eval=ä–b.jsonl"],
    ):
        code, _, err = cli(*arguments)
        assert code == 0, err
    assert b"->" in written.getvalue() and b"\\xe4-b" in written.getvalue()
    before = len(written.getvalue())
    assert cli("evaluate", "--model=model", "--eval=ä–b.jsonl", "--json")[0] == 0
    found = json.loads(written.getvalue()[before:])
    assert found["rows"]["model"]["results"][0]["dataset"] == "ä–b"


def test_a_key_given_twice_is_the_later_one(cli, lab):
    arguments = [
        *run_arguments(ratio="0.5"),
        "--dry-run",
        "--json",
        "selection.ratio=0.34",
        "training.max_steps=2",
    ]
    code, out, err = cli(*arguments)
    assert code == 0, err
    found = json.loads(out)
    assert (found["num_removed"], found["steps"]["training"]) == (2, 2)
