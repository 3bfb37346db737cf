"""Removing decoder layers from a checkpoint's files, without loading the model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from depthprune.errors import UserError, disk_faults_explained
from depthprune.model.ahead import copying_ahead, likely_pieces
from depthprune.model.config_file import check_no_adapter, local_folder, read_config_file
from depthprune.model.shards import read_shards
from depthprune.model.staging import check_vacant, staged


def prune_files(
    model_dir: str | Path,
    layers: Sequence[int],
    output: str | Path,
    trust_remote_code: bool = False,
    mlp_from: Mapping[int, int] | None = None,
) -> None:
    """Writes the checkpoint in `model_dir` without `layers` (original indices) to the new folder `output`.

    With `mlp_from` kept layers take the MLPs of removed ones, as in `remove_layers`.

    Tensors are copied byte by byte from file to file: no model in memory, any dtype. The tokenizer and the
    other small files come along. Raises UserError where the model folder is at fault, where the layers cannot
    go, and where `output` holds something already; then nothing is left there.
    """
    folder, output = local_folder(model_dir), Path(output).resolve()
    if folder is None:
        raise UserError(f"{model_dir} is not a folder: download the model first to prune its files")
    check_vacant(output)
    stated = read_config_file(folder)
    check_no_adapter(folder)
    shards = read_shards(folder)
    likely = [] if mlp_from else likely_pieces(stated, shards, layers)
    with disk_faults_explained(), staged(output) as written:
        with copying_ahead(likely, written) as copying:
            # transformers takes as long to import as some GB to copy.
            from depthprune.model.cutting import cut_of

            cut = cut_of(folder, shards, layers, trust_remote_code, mlp_from)
            copying.settle(cut.pieces)
        cut.write_beside(written)
    cut.say_notes()
