"""Two processes leave what one leaves, with the same recipe. `make test-distributed` prints the figures."""

import importlib.util

import pytest
from launching import (
    FULL,
    LORA,
    alone,
    call,
    in_shards,
    killed,
    lab,
    read,
    score_difference,
    sharding,
    together,
    tokens_seen,
    under_deepspeed,
    weight_difference,
)

from depthprune.model.verify import verify

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def gradpruner(tmp_path_factory):
    """A folder with a run `one` of one process: scores, merge and LoRA."""
    folder = lab(tmp_path_factory.mktemp("gradpruner"))
    ended = alone(call(folder, "gradpruner", "one", LORA))
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A folder with a run `one` of one process that trains every weight."""
    folder = lab(tmp_path_factory.mktemp("full"))
    ended = alone(call(folder, "reverse", "one", FULL, "--until", "train"))
    assert ended.returncode == 0, ended.stderr
    return folder


def check_equal(folder, kind, scored):
    one, two = folder / "one", folder / kind
    weights = weight_difference(one, two)
    figures = f"final weights differ by {weights:.1e}"
    if scored:
        scores = score_difference(one, two)
        figures = f"scores differ by {scores:.1e}, {figures}"
        assert scores < 1e-5
        assert read(one, "scores.json")["samples"] == read(two, "scores.json")["samples"]
    print(f"\n{folder.name[:-1]}, two processes, {kind}: relative, {figures}; same plan; the gate passes")
    assert read(one, "plan.json")["removed"] == read(two, "plan.json")["removed"]
    assert weights < 1e-5
    assert weight_difference(one / "depthprune" / "pruned", one) > 1e-3  # training did change them
    assert tokens_seen(one) == tokens_seen(two)
    verify(two)
    assert not list((two / "depthprune").glob("trainer*")) and not (two / "depthprune" / "lock").exists()


def all_in_shards(witness, trainings):
    found = [line.split() for line in witness.read_text().splitlines()]
    assert len(found) == 2 * trainings and all(shards == weights != "0" for shards, weights in found)


def test_ddp_scores_merges_and_tunes_adapters_as_one_process(gradpruner):
    ended = together(call(gradpruner, "gradpruner", "DDP", LORA))
    assert ended.returncode == 0, ended.stderr
    check_equal(gradpruner, "DDP", scored=True)
    assert ended.stderr.count("igia over 24 samples") == 1 and ended.stdout.count("majority class") == 2


def test_fsdp2_scores_merges_and_tunes_adapters_as_one_process(gradpruner, tmp_path):
    ended = in_shards(call(gradpruner, "gradpruner", "FSDP2", LORA), tmp_path / "witness")
    assert ended.returncode == 0, ended.stderr
    all_in_shards(tmp_path / "witness", trainings=2)
    check_equal(gradpruner, "FSDP2", scored=True)


def test_ddp_tunes_every_weight_as_one_process(full):
    ended = together(call(full, "reverse", "DDP", FULL, "--until", "train"))
    assert ended.returncode == 0, ended.stderr
    check_equal(full, "DDP", scored=False)


def test_ddp_learns_from_the_whole_model_as_one_process(tmp_path):
    taught = {**FULL, "training.loss": "distill"}
    folder = tmp_path / "distill0"
    folder.mkdir()
    lab(folder)
    for start, output in ((alone, "one"), (together, "DDP")):
        ended = start(call(folder, "reverse", output, taught, "--until", "train"))
        assert ended.returncode == 0, ended.stderr
    check_equal(folder, "DDP", scored=False)


def test_fsdp2_tunes_every_weight_as_one_process(full, tmp_path):
    ended = in_shards(call(full, "reverse", "FSDP2", FULL, "--until", "train"), tmp_path / "witness")
    assert ended.returncode == 0, ended.stderr
    all_in_shards(tmp_path / "witness", trainings=1)
    check_equal(full, "FSDP2", scored=False)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_deepspeed_tunes_every_weight_as_one_process(full):
    ended = under_deepspeed(call(full, "reverse", "DeepSpeed", FULL, "--until", "train"))
    assert ended.returncode == 0, ended.stderr
    check_equal(full, "DeepSpeed", scored=False)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_deepspeed_tunes_adapters_on_another_launch_s_scores(gradpruner):
    arguments = call(gradpruner, "gradpruner", "DeepSpeed", LORA)
    refused = under_deepspeed(arguments)
    assert refused.returncode and "which DeepSpeed keeps to itself" in refused.stderr
    scored = together([*arguments, "--until", "score"])
    assert scored.returncode == 0, scored.stderr
    ended = under_deepspeed(arguments)
    assert ended.returncode == 0, ended.stderr
    check_equal(gradpruner, "DeepSpeed", scored=True)


def test_a_run_whose_second_process_is_killed_goes_on_under_fsdp2(full, tmp_path):
    arguments = call(full, "reverse", "killed", FULL, "--until", "train")
    trainer = full / "killed" / "depthprune" / "trainer"
    said = killed(
        *sharding(arguments, tmp_path / "witness"), 1, lambda: any(trainer.glob("*/*/depthprune-*"))
    )
    assert said.count("interrupted: ") + said.count("another process of this run has ended") == 1
    ended = in_shards(arguments, tmp_path / "witness")
    assert ended.returncode == 0 and "training goes on from checkpoint-" in ended.stderr, ended.stderr
    check_equal(full, "killed", scored=False)
