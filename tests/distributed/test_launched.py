"""What a user meets who starts several processes: one line, once, and one end."""

import pytest
from launching import call, lab, together

from depthprune.distributed.sharded import deepspeed_shards
from depthprune.errors import UserError
from depthprune.pipeline.run import _check_launch
from depthprune.recipe.load import load_recipe


@pytest.mark.slow
def test_rows_that_processes_cannot_share_are_refused_once(tmp_path):
    settings = {"importance.per_device_train_batch_size": 3}
    ended = together(call(lab(tmp_path), "gradpruner", "out", settings))
    said = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert ended.returncode and len(said) == 1 and "importance takes 3 rows" in said[0]
    assert ended.stderr.count("exitcode  : 2") == 2  # of each process, as torchrun lists them
    assert not (tmp_path / "out").exists()


def test_weights_that_deepspeed_parts_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    assert not deepspeed_shards()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert deepspeed_shards()
    with pytest.raises(UserError, match="ZeRO-3 leaves each process a part"):
        _check_launch(load_recipe("reverse", model="m", train="t"), None)
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "own.json"))
    (tmp_path / "own.json").write_text('{"zero_optimization": {"stage": 2}}')
    assert not deepspeed_shards()


def test_what_does_not_go_into_shards_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(UserError, match=r"training\.loss=distill .* launch with DDP"):
        _check_launch(load_recipe("reverse", model="m", train="t", **{"training.loss": "distill"}), None)
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UserError, match="accelerate is told to use FSDP1"):
        _check_launch(load_recipe("reverse", model="m", train="t"), None)
