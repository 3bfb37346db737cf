"""mergekit.yaml keeps exactly the plan's layers."""

from pathlib import Path

import pytest
import yaml
from sample_run import sample_run

from depthprune.report.artifacts import read_artifacts
from depthprune.report.mergekit import mergekit_plan
from depthprune.selection import Plan


@pytest.mark.parametrize("removed", [(0,), (15,), (0, 1, 15), (3, 5, 7, 8, 9), tuple(range(1, 16))])
def test_ranges_cover_exactly_the_kept_layers(tmp_path: Path, removed: tuple[int, ...]) -> None:
    plan = Plan(16, removed, metric="igia", selection="one-shot")
    folder = sample_run(tmp_path, until="prune", plan=plan, recipe={"model": "../a model: #1"})
    merge = yaml.safe_load(mergekit_plan(read_artifacts(folder.root)))
    assert (merge["merge_method"], merge["dtype"]) == ("passthrough", "bfloat16")
    sources = [source for part in merge["slices"] for source in part["sources"]]
    assert {source["model"] for source in sources} == {"../a model: #1"}
    covered = [layer for source in sources for layer in range(*source["layer_range"])]
    assert covered == [i for i in range(16) if i not in removed]


@pytest.mark.parametrize("until", ["prune", "train"])
@pytest.mark.parametrize("merged_into", [{}, {4: 3}])
def test_it_says_when_it_is_not_the_checkpoint(
    tmp_path: Path, until: str, merged_into: dict[int, int]
) -> None:
    plan = Plan(16, (4, 5), metric="igia", selection="one-shot", merged_into=merged_into)
    folder = sample_run(tmp_path, until=until, plan=plan)
    comment = [
        line for line in mergekit_plan(read_artifacts(folder.root)).splitlines() if line.startswith("#")
    ]
    assert any("NOT equal" in line for line in comment) == (until == "train" or bool(merged_into))
    assert "removes 4-5" in comment[0]
