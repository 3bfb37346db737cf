"""config.json of a model that was made from another: the base's own text, with only what changed.

transformers writes a config in its newest spelling, which other engines read wrongly or not at all. So the
base's file is edited: it is read as transformers reads it, compared with the config that is meant, and the
differences are written where the base's spelling has them.
"""

import copy
import json
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from depthprune.errors import UserError
from depthprune.model.depth_config import read_as, text_config
from depthprune.model.engine_fields import (
    add_classic_rope,
    mend_kinds,
    mend_period,
    without_next_token_layers,
)

Json = dict[str, Any]
# Not about the model: how it was loaded, by what, and what a training switches off for its own time.
NOT_COMPARED = (
    "_attn_implementation",
    "_experts_implementation",
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
DTYPE_KEYS = ("torch_dtype", "dtype")
# What a language model inside a multimodal config takes from the outer one where its own part is silent.
FROM_OUTSIDE = (*DTYPE_KEYS, "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id")


def edited_config(base: Json, base_config: PretrainedConfig, meant: PretrainedConfig) -> Json:
    """The base's config.json with what `meant` says otherwise.

    Args:
        base: the content of the base's config.json.
        base_config: as transformers reads it.
        meant: the config of the model that is to be written; of the base's kind, or of its language model's.

    Raises UserError where the two are different kinds of model.
    """
    written = _stated(base, base_config, meant)
    if not _is_read_as(written, meant):
        # First what the base states; it may imply the rest, such as layer_types from a number of layers.
        stated = copy.deepcopy(written)
        _write_differences(stated, meant, only_stated=True)
        written = stated if _can_be_read(stated, meant) else written
        _write_differences(written, meant)
    return for_engines(written, meant)


def for_engines(written: Json, config: PretrainedConfig) -> Json:
    """config.json with what other engines read beside what transformers does."""
    section, text = text_section(written, config), text_config(config)
    mend_period(section, text)
    mend_kinds(section, text)
    return add_classic_rope(written, config)


def mended(written: Json, model: PreTrainedModel, tensors: set[str]) -> Json:
    """config.json with what `model`, of which these `tensors` are on disk, shows to be otherwise."""
    if untied(model):
        state_untied(written, model.config)
    without_next_token_layers(text_section(written, model.config), tensors)
    return written


def text_section(written: Json, config: PretrainedConfig) -> Json:
    """The part of config.json that speaks of the language model."""
    text = text_config(config)
    if text is config:
        return written
    name = next(name for name in config.sub_configs if getattr(config, name, None) is text)
    return written.setdefault(name, {})


def set_dtype(written: Json, dtype: torch.dtype) -> None:
    """States the dtype wherever config.json states another one, in its own spelling."""
    name = str(dtype).removeprefix("torch.")
    sections = [written, *(part for part in written.values() if isinstance(part, dict))]
    stated = [(part, key) for part in sections for key in DTYPE_KEYS if isinstance(part.get(key), str)]
    if stated and stated[0][0][stated[0][1]].removeprefix("torch.") != name:
        for part, key in stated:
            part[key] = name


def untied(model: PreTrainedModel) -> bool:
    """Whether head and embedding differ, although the config ties them: engines would keep only one."""
    head: Any = model.get_output_embeddings()
    embedding: Any = model.get_input_embeddings()
    # Parts of multimodal configs leave the field to the outer one.
    ties = [getattr(part, "tie_word_embeddings", False) for part in (model.config, text_config(model.config))]
    if not any(ties) or head is None or head.weight is embedding.weight:
        return False
    return not torch.equal(head.weight, embedding.weight)


def state_untied(written: Json, config: PretrainedConfig) -> None:
    """Says that head and embedding are two tensors, wherever engines look for it."""
    for section in (written, text_section(written, config)):
        section["tie_word_embeddings"] = False


def part_of(base_config: PretrainedConfig, meant: PretrainedConfig) -> str | None:
    """The part of a multimodal base's config that `meant` was; None where it was all of it.

    Raises UserError where the two are different kinds of model.
    """
    if base_config.model_type == meant.model_type:
        return None
    for name in base_config.sub_configs:
        part = getattr(base_config, name, None)
        if isinstance(part, PretrainedConfig) and part.model_type == meant.model_type:
            return name
    raise UserError(
        f"the model is a {meant.model_type} and its base a {base_config.model_type}: name the base that it "
        "was made from"
    )


def _stated(base: Json, base_config: PretrainedConfig, meant: PretrainedConfig) -> Json:
    """A copy of the base's file, or of its part about the language model where only that was loaded."""
    name = part_of(base_config, meant)
    if name is None:
        return copy.deepcopy(base)
    outside = {key: base[key] for key in FROM_OUTSIDE if key in base}
    return copy.deepcopy({**outside, **base.get(name, {}), "model_type": meant.model_type})


def _write_differences(written: Json, meant: PretrainedConfig, only_stated: bool = False) -> None:
    _merge(written, as_json(read_as(written, meant)), as_json(meant), meant, only_stated)


def _merge(section: Json, read: Json, meant: Json, config: PretrainedConfig, only_stated: bool) -> None:
    """Writes into `section` what `meant` says otherwise than `read`, under the names that it has there."""
    for key, value in meant.items():
        if key in NOT_COMPARED or (key in read and read[key] == value):
            continue
        inner = getattr(config, key, None)
        if isinstance(inner, PretrainedConfig) and isinstance(read.get(key), dict):
            _merge(section.setdefault(key, {}), read[key], value, inner, only_stated)
            continue
        name = _spelling(key, section, config)
        if name in section or not only_stated:
            section[name] = value
    if "quantization_config" in read and "quantization_config" not in meant:
        section.pop("quantization_config", None)


def _spelling(key: str, section: Json, config: PretrainedConfig) -> str:
    """The name under which a file states a field: families have their own and the common one."""
    others = [alias for alias, field in config.attribute_map.items() if field == key and alias in section]
    return key if key in section or not others else others[0]


def _is_read_as(written: Json, meant: PretrainedConfig) -> bool:
    return _compared(as_json(read_as(written, meant))) == _compared(as_json(meant))


def _compared(section: Json) -> Json:
    return {
        key: _compared(value) if isinstance(value, dict) else value
        for key, value in section.items()
        if key not in NOT_COMPARED
    }


def _can_be_read(written: Json, meant: PretrainedConfig) -> bool:
    try:
        read_as(written, meant)
    except Exception:  # each family refuses in its own way
        return False
    return True


def as_json(config: PretrainedConfig) -> Json:
    """A config as transformers would write it, defaults included."""
    return json.loads(config.to_json_string(use_diff=False))
