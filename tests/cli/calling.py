"""What the tests of the command line ask of a call."""

SMALL = [
    "training.max_steps=3",
    "training.per_device_train_batch_size=4",
    "training.gradient_accumulation_steps=1",
]


def run_arguments(**changes: str) -> list[str]:
    options = {"model": "model", "train": "train.jsonl", "eval": "test.jsonl", "output": "out", **changes}
    return [
        "run",
        "gradpruner",
        *[f"--{key.replace('_', '-')}={value}" for key, value in options.items()],
        *SMALL,
    ]


def one_line_about(err: str) -> str:
    """The error line; the call said nothing else."""
    lines = [line for line in err.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1, err
    assert lines[-1] == errors[0], err
    assert "Traceback" not in err
    return errors[0]


def refused(cli, lab, *arguments):
    """The call ends with 2 and one line, and leaves the folder as it was; returns the line."""
    before = {path: path.stat().st_mtime_ns for path in lab.rglob("*") if path.is_file()}
    code, _, err = cli(*arguments)
    assert code == 2, err
    assert {path: path.stat().st_mtime_ns for path in lab.rglob("*") if path.is_file()} == before
    assert not (lab / "out").exists() or any(path.is_relative_to(lab / "out") for path in before)
    return one_line_about(err)
