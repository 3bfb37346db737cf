"""What the queue of SLURM is taken to say."""

from depthprune.compare.slurm import Slurm
from depthprune.compare.slurm_options import parse_options

SAYS = """#!/bin/sh
case "$*" in *--states=all*) ;; *) exit 1;; esac
echo "3_0|COMPLETING|depthprune-1"
echo "3_1|PENDING|depthprune-1"
echo "3_2|COMPLETED|depthprune-1"
echo "4|CANCELLED|a|b"
echo "5|RUNNING|a|b"
"""


def test_jobs_that_have_ended_are_not_listed_and_those_that_are_preempted_are(tmp_path, monkeypatch):
    (tmp_path / "squeue").write_text(SAYS)
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert Slurm(parse_options(["time=20"])).listed() == {
        "3_0": ("COMPLETING", "depthprune-1"),
        "3_1": ("PENDING", "depthprune-1"),
        "5": ("RUNNING", "a|b"),
    }
