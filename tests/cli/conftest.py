"""The command line, called in this process."""

import sys

import pytest
from runs import model_folder, rows, write_jsonl

from depthprune.cli.verbs import main


@pytest.fixture
def cli(monkeypatch, capsys):
    """Calls `depthprune ARGUMENTS`; returns the exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["depthprune", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A folder with a tiny model and data, as the working directory."""
    monkeypatch.chdir(tmp_path)
    model_folder(tmp_path / "model")
    write_jsonl(tmp_path / "train.jsonl", rows(32))
    write_jsonl(tmp_path / "test.jsonl", rows(8, seed=1))
    return tmp_path
