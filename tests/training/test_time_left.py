from tuned import checkpoint, tune

from depthprune import cost
from depthprune.training import Full


def test_a_training_says_how_long_it_takes_from_its_first_micro_batches(tmp_path, monkeypatch, caplog):
    now = [0.0]

    def clock() -> float:  # each look at it is a minute later
        now[0] += 60
        return now[0]

    monkeypatch.setattr(cost.time, "monotonic", clock)
    caplog.set_level("INFO", logger="depthprune")
    settings = Full(max_steps=4, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    tune(checkpoint(tmp_path / "base", layers=1), settings, tmp_path / "trainer")
    said = [line for line in (record.getMessage() for record in caplog.records) if "left" in line]
    assert said[0] == "training: 12 % done, about 7 min left"
    assert said[1].startswith("training: 38 % done")
