"""Removing decoder layers from a checkpoint's files, without loading the model."""

import json
import logging
import operator
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from transformers import PretrainedConfig, PreTrainedModel

from depthprune.errors import UserError, disk_faults_explained
from depthprune.model.anatomy import layers_path
from depthprune.model.base_config import edited_config, state_untied
from depthprune.model.base_files import copy_other_files
from depthprune.model.depth_config import num_layers
from depthprune.model.engine_fields import pattern_notes
from depthprune.model.fits import check_fits
from depthprune.model.loading import load_config, local_folder
from depthprune.model.moves import Moves
from depthprune.model.quantised import check_not_quantised
from depthprune.model.quantised_layers import Renumbering, mended_files, module_names
from depthprune.model.saving import write_config
from depthprune.model.shard_writing import pieces_of, write_shards
from depthprune.model.shards import Shard, read_shards
from depthprune.model.skeleton import skeleton
from depthprune.model.staging import check_vacant, staged
from depthprune.model.sublayers import MlpFrom
from depthprune.model.traits import Shallower, shallower

log = logging.getLogger(__name__)

COMPARED_BYTES = 2**18


def prune_files(
    model_dir: str | Path,
    layers: Sequence[int],
    output: str | Path,
    trust_remote_code: bool = False,
    mlp_from: MlpFrom | None = None,
) -> None:
    """Writes the checkpoint in `model_dir` without `layers` (original indices) to the new folder `output`.

    With `mlp_from` kept layers take the MLPs of removed ones, as in `remove_layers`.

    Tensors are copied byte by byte from shard to shard: no model in memory, any dtype. The tokenizer and the
    other small files come along. Raises UserError where the model folder is at fault, where the layers cannot
    go, and where `output` holds something already; then nothing is written.
    """
    folder, output = local_folder(model_dir), Path(output).resolve()
    if folder is None:
        raise UserError(f"{model_dir} is not a folder: download the model first to prune its files")
    check_vacant(output)
    config = load_config(folder, trust_remote_code)
    shards = read_shards(folder)
    change = shallower(config, layers, trust_remote_code=trust_remote_code, mlp_from=mlp_from)
    if mlp_from:
        check_not_quantised(config, str(folder), "its layers are cut whole: leave out --mlp-from")
    if change.packed:
        raise UserError(
            f"{config.model_type} packs all layers into {next(iter(change.packed))}: load it to prune it"
        )
    whole = skeleton(config, trust_remote_code)
    prefix = stored_prefix(shards, layers_path(whole), num_layers(config), folder)
    check_fits(folder, whole, shards, trust_remote_code)
    moves = Moves(prefix, tuple(change.kept), mlp_from or {}, change.sides)
    renumbering = _renumbering(shards, whole, prefix, change.kept)
    mended_files(folder, renumbering)  # refuses now what it would refuse below
    with disk_faults_explained(), staged(output) as written:
        write_shards(pieces_of(shards, moves.renamed), written)
        copy_other_files(folder, written)
        _write_config(folder, config, change, _unties(shards, whole), written)
        for name, content in mended_files(written, renumbering).items():
            (written / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        _check_depth(folder, written, len(change.kept), trust_remote_code)
    for note in pattern_notes(config, change.kept):
        log.warning("%s", note)


def stored_prefix(shards: Sequence[Shard], path: str, depth: int, folder: Path) -> str:
    """What stands before the layer's number in the names on disk, e.g. "model.layers."

    Checkpoints may name their layers otherwise than the model in memory does ("h.0." for "transformer.h.0."),
    and other towers may have layers too: the prefix ends like the path in memory and counts up to `depth`.
    """
    leaf = path.rpartition(".")[2]
    indices: dict[str, set[int]] = {}
    for shard in shards:
        for name in shard.tensors:
            if found := re.match(rf"((?:.*?\.)?{re.escape(leaf)}\.)(\d+)\.", name):
                indices.setdefault(found[1], set()).add(int(found[2]))
    fitting = [prefix for prefix, numbers in indices.items() if numbers >= set(range(depth))]
    exact = [prefix for prefix in fitting if prefix == f"{path}."]
    language = [prefix for prefix in fitting if not re.search("vision|visual|audio|encoder", prefix)]
    for candidates in (exact, fitting, language):
        if len(candidates) == 1:
            return candidates[0]
    raise UserError(
        f"{folder}: its files hold {len(fitting)} stacks of {depth} layers: cannot tell which to prune"
    )


def _blocks(source: BinaryIO, start: int, length: int) -> Iterator[bytes]:
    source.seek(start)
    while length and (block := source.read(min(length, COMPARED_BYTES))):
        length -= len(block)
        yield block


def _write_config(
    folder: Path, config: PretrainedConfig, change: Shallower, untied: bool, output: Path
) -> None:
    """config.json as it was, but for the fields that speak of layers, and tied embeddings that are not."""
    stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    written = edited_config(stated, config, change.config)
    if untied:
        state_untied(written, change.config)
    write_config(output, written)


def _check_depth(folder: Path, written: Path, depth: int, trust_remote_code: bool) -> None:
    if num_layers(load_config(written, trust_remote_code)) != depth:
        raise UserError(f"{folder / 'config.json'} cannot say that {depth} layers remain")


def _renumbering(
    shards: Sequence[Shard], whole: PreTrainedModel, prefix: str, kept: Sequence[int]
) -> Renumbering:
    """What the layers' modules were called, in memory and on disk, and which of them stay."""
    modules = [name for name, _ in whole.named_modules()]
    names = module_names(modules, [name for shard in shards for name in shard.tensors])
    return Renumbering(names, tuple(dict.fromkeys([prefix, f"{layers_path(whole)}."])), tuple(kept))


def _unties(shards: Sequence[Shard], whole: PreTrainedModel) -> bool:
    """Whether the files hold a head and an embedding that differ, although the config ties them.

    transformers then loads both; other engines keep only one.
    """
    for target, source in getattr(whole, "all_tied_weights_keys", {}).items():
        ends = [".".join(name.split(".")[-2:]) for name in (target, source)]
        found = [
            (shard, tensor)
            for end in ends
            for shard in shards
            for name, tensor in shard.tensors.items()
            if f".{name}".endswith(f".{end}")
        ]
        if len(found) == 2 and not _same_bytes(*found):
            return True
    return False


def _same_bytes(one: tuple[Shard, dict[str, Any]], other: tuple[Shard, dict[str, Any]]) -> bool:
    with one[0].path.open("rb") as left, other[0].path.open("rb") as right:
        pieces = [
            _blocks(file, shard.data_start + tensor["data_offsets"][0], _size(tensor))
            for file, (shard, tensor) in ((left, one), (right, other))
        ]
        return _size(one[1]) == _size(other[1]) and all(map(operator.eq, *pieces))


def _size(tensor: dict[str, Any]) -> int:
    begin, end = tensor["data_offsets"]
    return end - begin
