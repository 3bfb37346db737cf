"""Loading models, configs and tokenizers, with the user's mistakes said in one line."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedModel

from depthprune.errors import UserError


def load_config(path_or_id: str | Path, trust_remote_code: bool = False) -> PretrainedConfig:
    """The config of a decoder-only language model in a folder or on the hub."""
    folder = Path(path_or_id)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json: name a Hugging Face model folder")
    return AutoConfig.from_pretrained(path_or_id, trust_remote_code=trust_remote_code)


def load_model(
    path_or_id: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
    **kwargs: Any,
) -> PreTrainedModel:
    """The model in eval mode on `device`; `dtype` "auto" keeps the checkpoint's."""
    load_config(path_or_id, trust_remote_code)
    model = AutoModelForCausalLM.from_pretrained(
        path_or_id, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True, **kwargs
    )
    return model.to(device).eval()


def load_tokenizer(path_or_id: str | Path, trust_remote_code: bool = False) -> Any:
    """The tokenizer that lies beside the model."""
    return AutoTokenizer.from_pretrained(path_or_id, trust_remote_code=trust_remote_code)
