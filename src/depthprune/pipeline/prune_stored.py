"""The pruning stage on files: what stays is copied, what a recovery changes is made a few layers at once."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from depthprune.errors import UserError
from depthprune.files import delete, remove
from depthprune.model.base_config import part_of
from depthprune.model.config_file import local_folder
from depthprune.model.cutting import Cut, cut_of
from depthprune.model.few_layers import lies_as_in_memory, loaded, save_layer
from depthprune.model.shard_writing import Piece, pieces_of, write_shards
from depthprune.model.shards import Shard, read_shard, read_shards
from depthprune.model.staging import staged
from depthprune.model.surgery import remove_layers
from depthprune.model.verify import check_copied
from depthprune.pipeline.job import Job
from depthprune.recovery.base import Evidence
from depthprune.selection import Plan


def prune_stored(job: Job, plan: Plan) -> tuple[dict[str, Any], int] | None:
    """Writes the pruned checkpoint; returns the recovery's report, and how many parameters are left.

    None, and nothing is written, where the model has to be loaded: for a recovery that reads all of it, and
    where the files hold other tensors than the model in memory.
    """
    recovery: Any = job.recipe.recovery
    parts = recovery.parts(plan)
    found = None if parts is None or plan.silenced or not plan.removed else _cut(job, plan)
    if parts is None or found is None:
        return None
    shards, cut = found
    recovery.check(job.inputs.skeleton)
    checkpoint = job.folder.artifact("prune")
    remove(checkpoint)
    with staged(checkpoint) as written:
        changed = written.parent / "changed"
        changed.mkdir()
        report = _repair(job, parts, shards, cut, changed)
        pieces = _with_changed(cut, [read_shard(path) for path in sorted(changed.iterdir())])
        write_shards(pieces, written)
        cut.write_beside(written)
        model: Any = job.load(str(job.recipe.full), job.dtype)
        remove_layers(model, plan.removed, plan.mlp_from)
        check_copied(written, pieces, model)
        delete(changed)
    return report, sum(parameter.numel() for parameter in model.parameters())


def _cut(job: Job, plan: Plan) -> tuple[list[Shard], Cut] | None:
    """The model's files and what stays of them; None where they cannot be cut as the model in memory can."""
    skeleton: Any = job.inputs.skeleton
    folder = local_folder(str(job.recipe.full))
    if folder is None or part_of(job.inputs.config, skeleton.config) is not None:
        return None
    shards = read_shards(folder)
    try:
        cut = cut_of(folder, shards, plan.removed, job.recipe.trust_remote_code, plan.mlp_from or None)
    except UserError:  # of files alone; what is wrong with the removal itself is found in memory, too
        return None
    fits = lies_as_in_memory(skeleton, shards, cut.moves.prefix, job.dtype)
    return (shards, cut) if fits else None


def _repair(
    job: Job, parts: list[tuple[Plan, set[int]]], shards: list[Shard], cut: Cut, changed: Path
) -> dict[str, Any]:
    """Runs the recovery part by part; what it changes lies in `changed` afterwards, a file a layer."""
    recovery: Any = job.recipe.recovery
    evidence = Evidence(job.folder.gradients, [], job.dtype)
    skeleton, prefix = job.inputs.skeleton, cut.moves.prefix
    report: dict[str, list[Any]] = defaultdict(list)
    for part, layers in parts:
        with loaded(skeleton, layers, shards, prefix, job.state.device):
            found = recovery(skeleton, part, evidence)
            for layer in found["changed_layers"]:
                save_layer(skeleton, layer, prefix, changed / f"layer-{layer:05d}.safetensors")
        for key, rows in found.items():
            report[key] += rows
    return dict(report)


def _with_changed(cut: Cut, changed: list[Shard]) -> list[Piece]:
    """The tensors that stay, with those that were changed in the place of the old."""
    new = {piece.name: piece for piece in pieces_of(changed, cut.moves.renamed)}
    return [new.get(piece.name, piece) for piece in cut.pieces]
