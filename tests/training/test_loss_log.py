"""The log of a training, whole after a kill."""

import json

import pytest
from tuned import SHORT, KillAt, Killed, checkpoint, encoded, tune

from depthprune.training import Full
from depthprune.training.loss_log import LossLog


def test_tokens_are_counted_through_a_kill_and_no_time_is_kept(tmp_path):
    start = checkpoint(tmp_path / "model", layers=1)
    settings = Full(**{**SHORT, "max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 5})
    logs = {}
    for name in ("whole", "killed"):
        log = LossLog(tmp_path / f"{name}.jsonl", "train")
        if name == "killed":
            with pytest.raises(Killed):
                tune(start, settings, tmp_path / name, [log, KillAt(9)])
        tune(start, settings, tmp_path / name, [log])
        lines = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        logs[name] = [{key: value for key, value in line.items() if key != "num_tokens"} for line in lines]
    assert logs["whole"] == logs["killed"] and len(logs["whole"]) == 14
    assert not any(key.startswith("train_") for line in logs["whole"] for key in line)
    epoch = sum(map(len, encoded()["input_ids"]))
    assert [logs["whole"][i]["num_input_tokens_seen"] for i in (6, 13)] == [epoch, 2 * epoch]
