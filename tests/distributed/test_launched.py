"""What a user meets who starts several processes: one line, once, and one end."""

import pytest
from launching import call, lab, together


@pytest.mark.slow
def test_rows_that_processes_cannot_share_are_refused_once(tmp_path):
    settings = {"importance.per_device_train_batch_size": 3}
    ended = together(call(lab(tmp_path), "gradpruner", "out", settings))
    said = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.returncode and len(said) == 1 and "importance takes 3 rows" in said[0]
    assert ended.stderr.count("exitcode  : 2") == 2  # of each process, as torchrun lists them
    assert not (tmp_path / "out").exists()
