"""The plan as a passthrough merge, for those who build their models with mergekit."""

import yaml

from depthprune.report.artifacts import Artifacts
from depthprune.report.figures import ranges, runs


def mergekit_plan(run: Artifacts) -> str:
    """The content of `mergekit.yaml`: the kept layers as slices, `layer_range` [first, last + 1)."""
    assert run.plan is not None
    slices = [
        {"sources": [{"model": run.model, "layer_range": [first, last + 1]}]}
        for first, last in runs(run.plan.kept)
    ]
    merge = {"slices": slices, "merge_method": "passthrough", **({"dtype": run.dtype} if run.dtype else {})}
    return (
        "\n".join(f"# {line}" for line in _comment(run))
        + "\n"
        + yaml.safe_dump(merge, sort_keys=False, default_flow_style=None)
    )


def _comment(run: Artifacts) -> list[str]:
    assert run.plan is not None
    lines = [
        f"Keeps {len(run.plan.kept)} of {run.plan.num_layers} layers; removes {ranges(run.plan.removed)}."
    ]
    changes = []
    if run.plan.merged_into:
        changes.append("weights of removed layers were merged into kept ones")
    elif run.repaired:
        changes.append("a linear map was folded into kept ones")
    if run.tuned:
        changes.append("it was fine-tuned")
    if changes:
        lines.append(f"NOT equal to the checkpoint beside it: {' and '.join(changes)}. This is the bare cut.")
    lines.append(
        "mergekit leaves config fields that list or count layers as they were; where a family needs them"
    )
    lines.append("mended, use `depthprune prune`.")
    return lines
