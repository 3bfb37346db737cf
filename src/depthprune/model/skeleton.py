"""A model without weights, for everything that only needs shapes."""

import torch
from transformers import PretrainedConfig, PreTrainedModel

from depthprune.model.loading import explained
from depthprune.model.model_types import auto_class


def skeleton(config: PretrainedConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model of a config on the meta device: every module and shape, no memory.

    Raises UserError where transformers makes no model of these numbers.
    """
    with explained(f"no model can be made of this {config.model_type} config"), torch.device("meta"):
        return auto_class(config).from_config(config, trust_remote_code=trust_remote_code)


def checkpoint_dtype(config: PretrainedConfig) -> torch.dtype:
    """The dtype that a checkpoint's config states; float32 where it states none."""
    dtype = config.dtype or config.get_text_config(decoder=True).dtype or torch.float32
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype
