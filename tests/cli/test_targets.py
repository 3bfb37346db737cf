"""Targets of size and speed on the command line."""

import json

import yaml
from calling import refused

RUN = ("run", "reverse", "--model=model", "--train=train.jsonl", "--eval=test.jsonl", "--output=out")


def test_a_target_is_said_as_layers_by_dry_run_run_and_inspect(cli, lab):
    _, out, _ = cli("inspect", "model", "--target-latency=0.5", "--json")
    found = json.loads(out)
    assert found["target"].startswith("--target-latency 0.5: ") and found["remaining"]["cost_share"] <= 0.5
    code, out, err = cli(*RUN, "--target-latency=0.5", "--dry-run", "--json")
    assert code == 0, err
    estimate = json.loads(out)
    assert estimate["target"] == found["target"]
    assert estimate["num_removed"] == 6 - found["remaining"]["layers"]
    code, out, err = cli(*RUN, "--target-latency=0.5", "--dry-run")
    assert found["target"] in " ".join(out.split())
    code, _, err = cli(*RUN, "--target-latency=0.5", "--until=score")
    assert code == 0 and found["target"] in err
    kept = yaml.safe_load((lab / "out/depthprune/recipe.yaml").read_text())["selection"]
    assert (kept["ratio"], kept["num_removed"]) == (None, estimate["num_removed"])


def test_targets_that_cannot_be(cli, lab):
    beside = refused(cli, lab, *RUN, "--target-memory=1kB", "--ratio=0.5")
    assert "--target-memory 1kB and --ratio 0.5 both say" in beside
    beside = refused(cli, lab, *RUN, "--target-memory=1kB", "selection.num_removed=2")
    assert "--target-memory 1kB and selection.num_removed=2 both say" in beside
    both = refused(cli, lab, *RUN, "--target-memory=1kB", "--target-latency=0.5")
    assert "--target-memory and --target-latency both say" in both
    assert "out of reach" in refused(cli, lab, *RUN, "--target-memory=1kB")
    assert "already" in refused(cli, lab, *RUN, "--target-parameters=6e9", "--dry-run")
    assert "such as 12GB" in refused(cli, lab, "inspect", "model", "--target-memory=lots")
