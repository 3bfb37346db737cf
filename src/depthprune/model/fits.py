"""Whether a checkpoint's files hold the model that its config describes, told from names and shapes alone."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from depthprune.errors import UserError
from depthprune.model.anatomy import layers_path
from depthprune.model.loading import load_with_report
from depthprune.model.quantised import quantisation
from depthprune.model.shards import Shard

PLAIN_DTYPES = ("F64", "F32", "F16", "BF16")


def check_fits(
    folder: Path, whole: PreTrainedModel, shards: Sequence[Shard], trust_remote_code: bool = False
) -> None:
    """Raises UserError for a weight that is missing, or has another shape than the config gives it.

    transformers itself loads the files, on the meta device: it alone knows under which names each family's
    weights may lie on disk. A quantised checkpoint cannot be loaded so without its quantiser: of that one the
    modules outside the layers are looked for, and the plain tensors' shapes compared.

    Args:
        whole: the model on the meta device.
    """
    if quantisation(whole.config, folder) is None:
        load_with_report(folder, device="meta", trust_remote_code=trust_remote_code, device_map="meta")
    else:
        _check_quantised(folder, whole, shards)


def _check_quantised(folder: Path, whole: PreTrainedModel, shards: Sequence[Shard]) -> None:
    stored = {name: tensor for shard in shards for name, tensor in shard.tensors.items()}
    modules = {_module(name) for name in stored}
    tied, inside = whole.all_tied_weights_keys, f"{layers_path(whole)}."
    for name, parameter in whole.named_parameters():
        found = stored.get(name)
        if found and found["dtype"] in PLAIN_DTYPES and tuple(found["shape"]) != tuple(parameter.shape):
            raise UserError(f"{folder}: {name} has another shape in its weights than in its config")
        if not (name.startswith(inside) or name in tied or _module(name) in modules):
            raise UserError(f"{folder}: {name} is missing in its weights")


def _module(name: str) -> str:
    """The last part of the name of a tensor's module: "lm_head" of "lm_head.weight"."""
    return name.rpartition(".")[0].rpartition(".")[2]
