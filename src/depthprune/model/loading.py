"""Loading models, configs and tokenizers, with the user's mistakes said in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.peft_utils import find_adapter_config_file

from depthprune.errors import UserError
from depthprune.model.config_file import (
    MOST_LAYERS,
    check_counts,
    check_no_adapter,
    local_folder,
    read_config_file,
)
from depthprune.model.depth_config import num_layers, text_config
from depthprune.model.model_types import TEXT_ALONE, auto_class, check_decoder_only
from depthprune.model.shards import INDEX, SINGLE, read_shards, stored_dtype

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt")
# What from_pretrained reports and goes on with, leaving random weights in the model.
LOADING_FAULTS = {
    "missing_keys": "is missing in",
    "mismatched_keys": "has another shape in",
    "error_msgs": "went wrong with",
}


def load_config(path_or_id: str | Path, trust_remote_code: bool = False) -> PretrainedConfig:
    """The config of a decoder-only language model in a folder or on the hub.

    Where it names no dtype, its `dtype` is that of the weights. Raises UserError where there is no such
    folder, no config.json in it, or another kind of model.
    """
    if (folder := local_folder(path_or_id)) is not None:
        found = read_config_file(folder)
        check_no_adapter(folder)
    with explained(f"{path_or_id}: its config cannot be loaded"):
        if folder is None:
            found = _check_hub_id(str(path_or_id))
        _check_code(path_or_id, found, trust_remote_code)
        config = AutoConfig.from_pretrained(path_or_id, trust_remote_code=trust_remote_code)
        check_decoder_only(path_or_id, config)
        depth = num_layers(config)  # text_config, too, may be whatever the file says
        if not 1 <= depth <= MOST_LAYERS:
            raise UserError(f"{path_or_id}: its config says that it has {depth} layers: correct it")
        if config.dtype is None and text_config(config).dtype is None:
            config.dtype = _dtype_of_files(path_or_id)
    return config


def load_model(
    path_or_id: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
    **kwargs: Any,
) -> PreTrainedModel:
    """The model in eval mode on `device`; `dtype` "auto" keeps the checkpoint's, "bfloat16" and such cast.

    Further keyword arguments go to `from_pretrained`. Raises UserError as `load_config` does, for torn or
    pickled weights, and for weights that are missing or do not fit.
    """
    model, _ = load_with_report(path_or_id, dtype, device, trust_remote_code, **kwargs)
    return model


def load_with_report(
    path_or_id: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
    **kwargs: Any,
) -> tuple[PreTrainedModel, list[str]]:
    """As `load_model`, with the names of the tensors in the files that the model has no use for."""
    config = load_config(path_or_id, trust_remote_code)
    if (folder := local_folder(path_or_id)) is not None:
        read_shards(folder)
    with explained(f"{path_or_id}: the model cannot be loaded"):
        loaded: Any = auto_class(config).from_pretrained(
            path_or_id,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported, and refused below by name
            **kwargs,
        )
    model, report = loaded
    for kind, what in LOADING_FAULTS.items():
        if faults := sorted(map(str, report[kind])):
            raise UserError(f"{path_or_id}: {faults[0]} {what} its weights (and {len(faults) - 1} more)")
    if "device_map" not in kwargs and model.device != torch.device(device):
        model = model.to(device)
    unused = sorted(report["unexpected_keys"])
    if config.model_type in TEXT_ALONE:
        unused = [name for name in unused if "language_model." in name]  # the rest is the other parts'
    return model.eval(), unused


def load_tokenizer(path_or_id: str | Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside the model; raises UserError where there is none."""
    folder = local_folder(path_or_id)
    if folder is not None and not has_tokenizer(folder):
        raise UserError(
            f"{folder} has no tokenizer: put tokenizer.json and tokenizer_config.json beside the model"
        )
    with explained(f"{path_or_id}: its tokenizer cannot be loaded"):
        return AutoTokenizer.from_pretrained(path_or_id, trust_remote_code=trust_remote_code)


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer lies in a model folder."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turns whatever a third party's code raises on the user's files into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, its validators' own, …
        raise UserError(f"{what}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """An exception's message on one line, cut to 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def _check_code(path_or_id: str | Path, config: dict[str, Any], trusted: bool) -> None:
    """Raises UserError where only code that comes with the model can read its config."""
    if (
        not trusted
        and "AutoConfig" in (config.get("auto_map") or {})
        and config["model_type"] not in CONFIG_MAPPING
    ):
        raise UserError(
            f"{path_or_id} comes with code of its own for {config['model_type']!r:.100}: read it, then "
            "allow it with --trust-remote-code"
        )


def _check_hub_id(model_id: str) -> dict[str, Any]:
    """The config of a model on the hub; raises UserError as a folder is refused."""
    found, _ = PretrainedConfig.get_config_dict(model_id)
    check_counts(found, model_id)
    if find_adapter_config_file(model_id) is not None:
        raise UserError(
            f"{model_id} has an adapter (adapter_config.json): merge it into its base model, and name that"
        )
    return found


def _dtype_of_files(path_or_id: str | Path) -> torch.dtype | None:
    """What a config leaves unsaid; None where no weights are on this machine yet."""
    folder = local_folder(path_or_id)
    if folder is None:
        cached = [try_to_load_from_cache(str(path_or_id), name) for name in (SINGLE, INDEX)]
        folder = next((Path(path).parent for path in cached if isinstance(path, str)), None)
    if folder is None or not any((folder / name).is_file() for name in (SINGLE, INDEX)):
        return None
    found = stored_dtype(read_shards(folder))
    return getattr(torch, found) if found else None
