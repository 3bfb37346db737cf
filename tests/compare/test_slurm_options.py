"""What `--slurm` takes and refuses before SLURM is asked."""

import pytest

from depthprune import UserError
from depthprune.compare.slurm_options import parse_minutes, parse_options


def test_options_of_sbatch_come_through():
    texts = [
        "partition=gpu,long",
        "time=1-02:30",
        "gpus_per_node=1",
        "--mem=64G",
        "exclusive",
        "array-parallelism=4",
    ]
    found = parse_options(texts)
    assert found.minutes == 26 * 60 + 30 and found.parallelism == 4
    assert found.arguments == [
        "--partition=gpu,long",
        "--gpus-per-node=1",
        "--mem=64G",
        "--exclusive",
        f"--time={26 * 60 + 30}",
    ]


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("60", 60), ("60:30", 61), ("4:00:00", 240), ("1-0", 1440), ("2-12:30:00", 3630), ("0:05:00", 5)],
)
def test_times_as_sbatch_takes_them(text, minutes):
    assert parse_minutes(text) == minutes


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "no time limit"),
        (["time=4h"], "hours:minutes:seconds"),
        (["time=2"], "5 minutes"),
        (["time=infinite"], "hours:minutes:seconds"),
        (["time=60", "array=0-3"], "array of our own"),
        (["time=60", "ntasks=2"], "one process"),
        (["time=60", "output=x"], "jobs of the output"),
        (["time=60", "mem=1G", "mem=2G"], "twice"),
        (["time=60", "partition"], "takes a value"),
        (["time=60", "partition="], "such as partition=gpu"),
        (["time=60", "part ition=gpu"], "such as partition=gpu"),
        (["time=60", "comment=a\nb"], "such as partition=gpu"),
        (["time=60", "array-parallelism=0"], "from 1 on"),
    ],
)
def test_what_cannot_be_is_refused(texts, said):
    with pytest.raises(UserError, match=said):
        parse_options(texts)
