"""What removing layers makes of a checkpoint: whether it can be, its tensors, its config and side files."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedModel

from depthprune.errors import UserError
from depthprune.model.anatomy import layers_path
from depthprune.model.base_config import edited_config, state_untied
from depthprune.model.base_files import copy_other_files
from depthprune.model.depth_config import num_layers
from depthprune.model.engine_fields import pattern_notes
from depthprune.model.fits import check_fits
from depthprune.model.loading import load_config, load_with_report
from depthprune.model.moves import Moves, stored_prefix
from depthprune.model.quantised import check_not_quantised
from depthprune.model.quantised_layers import Renumbering, mended_files, module_names
from depthprune.model.saving import write_config
from depthprune.model.shard_writing import Piece, pieces_of
from depthprune.model.shards import Shard, same_bytes
from depthprune.model.skeleton import skeleton
from depthprune.model.sublayers import MlpFrom
from depthprune.model.traits import Shallower, shallower

log = logging.getLogger("depthprune.model.checkpoint")


@dataclass(frozen=True)
class Cut:
    """A removal that was found possible.

    Attributes:
        folder: the whole checkpoint.
        moves: which tensors stay, and their names.
        pieces: the tensors of the result.
        unused: tensors of the whole checkpoint that transformers has no use for; None where that is not known
            (quantised), or is of no interest, since the others have the names that they have in memory.
        untied: whether its head and embedding differ, although its config ties them.
    """

    folder: Path
    config: PretrainedConfig
    change: Shallower
    moves: Moves
    pieces: list[Piece]
    renumbering: Renumbering
    unused: list[str] | None
    untied: bool
    trust_remote_code: bool

    def write_beside(self, written: Path) -> None:
        """Writes all but the weights, which lie there; raises UserError where transformers misses one."""
        copy_other_files(self.folder, written)
        _write_config(self.folder, self.config, self.change, self.untied, written)
        for name, content in mended_files(written, self.renumbering).items():
            (written / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        _check_depth(self.folder, written, len(self.change.kept), self.trust_remote_code)
        if self.unused is not None:
            _check_loads(written, self.config, self.unused, self.trust_remote_code)

    def say_notes(self) -> None:
        """Warns of what other engines will not read as transformers does."""
        for note in pattern_notes(self.config, self.change.kept):
            log.warning("%s", note)


def cut_of(
    folder: Path,
    shards: Sequence[Shard],
    layers: Sequence[int],
    trust_remote_code: bool,
    mlp_from: MlpFrom | None,
) -> Cut:
    """Raises UserError where the model folder is at fault, and where the layers cannot go."""
    config = load_config(folder, trust_remote_code)
    change = shallower(config, layers, trust_remote_code=trust_remote_code, mlp_from=mlp_from)
    if mlp_from:
        check_not_quantised(config, str(folder), "its layers are cut whole: leave out --mlp-from")
    if change.packed:
        raise UserError(
            f"{config.model_type} packs all layers into {next(iter(change.packed))}: load it to prune it"
        )
    whole = skeleton(config, trust_remote_code)
    prefix = stored_prefix(shards, layers_path(whole), num_layers(config), folder)
    unused = check_fits(folder, whole, shards, trust_remote_code)
    if _lies_plainly(shards, whole):
        unused = None
    moves = Moves(prefix, tuple(change.kept), mlp_from or {}, change.sides)
    renumbering = _renumbering(shards, whole, prefix, change.kept)
    mended_files(folder, renumbering)  # refuses now what it would refuse once all is written
    pieces, untied = pieces_of(shards, moves.renamed), _unties(shards, whole)
    return Cut(folder, config, change, moves, pieces, renumbering, unused, untied, trust_remote_code)


def _lies_plainly(shards: Sequence[Shard], whole: PreTrainedModel) -> bool:
    """Whether the tensors have the names that they have in memory, and no two layers share one."""
    known, path = whole.state_dict().keys(), f"{layers_path(whole)}."
    tied = getattr(whole, "all_tied_weights_keys", {})
    shared = any(path in name for pair in tied.items() for name in pair)
    return not shared and all(name in known for shard in shards for name in shard.tensors)


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


def _check_loads(
    written: Path, config: PretrainedConfig, unused: Sequence[str], trust_remote_code: bool
) -> None:
    """Raises UserError unless the written tensors are the pruned model's, but for the base's unused ones.

    Some families keep parts of their layers elsewhere on disk than the layers, with numbers of their own.
    """
    try:
        _, left = load_with_report(
            written, device="meta", trust_remote_code=trust_remote_code, device_map="meta"
        )
    except UserError as fault:
        left = [str(fault).removeprefix(f"{written}: ")]
    if left := sorted(set(left) - set(unused)):
        raise UserError(
            f"{config.model_type} keeps parts of its layers elsewhere in its files ({left[0]}): "
            "load it to prune it"
        )


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
            shard.place(name)
            for end in ends
            for shard in shards
            for name in shard.tensors
            if f".{name}".endswith(f".{end}")
        ]
        if len(found) == 2 and not same_bytes(*found):
            return True
    return False
