"""Whether a checkpoint's files hold the model that its config describes, told from names and shapes alone."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from depthprune.errors import UserError
from depthprune.model.anatomy import layers_path
from depthprune.model.loading import load_with_report
from depthprune.model.quantised import quantisation
from depthprune.model.shards import Shard

FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ")
PLAIN_DTYPES = ("F64", "F32", "F16", "BF16")


def check_fits(
    folder: Path, whole: PreTrainedModel, shards: Sequence[Shard], trust_remote_code: bool = False
) -> list[str] | None:
    """The names of tensors that the model has no use for; None of a quantised checkpoint.

    Raises UserError for a weight that is missing, or has another shape than the config gives it.

    transformers itself loads the files, on the meta device: it alone knows under which names each family's
    weights may lie on disk. A quantised checkpoint cannot be loaded so without its quantiser: of that one the
    modules outside the layers are looked for, and the plain tensors' shapes compared.

    Args:
        whole: the model on the meta device.
    """
    if quantisation(whole.config, folder) is None:
        _, unused = load_with_report(
            folder, device="meta", trust_remote_code=trust_remote_code, device_map="meta"
        )
        if fault := dtype_fault(whole, shards):
            raise UserError(
                f"{folder}: {fault}: save them as such, or name how they are quantised in config.json"
            )
        return unused
    _check_quantised(folder, whole, shards)
    return None


def dtype_fault(model: PreTrainedModel, shards: Sequence[Shard]) -> str | None:
    """Which stored weight is no floating-point number, although the model's is; None where all are.

    transformers casts integers and the real part of complex numbers to the model's dtype without a word.
    """
    floating = {name for name, weight in model.named_parameters() if weight.is_floating_point()}
    endings = {name[start:] for name in floating for start in (0, *_behind_dots(name))}
    for shard in shards:
        for name, tensor in shard.tensors.items():
            if tensor["dtype"] not in FLOATING and (name in endings or name.endswith(".weight")):
                return f"{name} is stored as {tensor['dtype']}, and a weight is a floating-point number"
    return None


def _behind_dots(name: str) -> list[int]:
    return [place + 1 for place, sign in enumerate(name) if sign == "."]


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
