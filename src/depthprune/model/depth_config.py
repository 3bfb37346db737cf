"""What a family's config says about single layers, and how it reads once layers are gone.

The tables name the fields of transformers' decoder-only families that speak of layers. What they cannot mend,
`traits.py` finds: it builds the pruned model on the meta device and compares each kept layer with before.
"""

import copy
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from transformers import PretrainedConfig

from depthprune.errors import UserError

Fields = dict[str, Any]

# Lists that may have as many entries as there are layers, and are not about layers.
NOT_PER_LAYER = (
    "architectures",
    "bos_token_id",
    "eos_token_id",
    "mlp_multipliers",
    "mtp_layer_types",
    "mtp_layers_block_type",
    "mtp_local_layer_ids",
    "mtp_mlp_layer_types",
    "ssm_multipliers",
    "time_step_limit",
)
# Lists of layer indices, and the number that their first layer has.
LAYER_INDICES = {
    "attn_layer_indices": 0,
    "cross_attention_layers": 0,
    "full_attn_idxs": 0,
    "hybrid_layer_ids": 0,
    "local_layer_ids": 0,
    "mlp_only_layers": 0,
    "moe_layers": 0,
    "ple_layer_ids": 1,
}
# Lists with an entry per layer: the index of the layer whose keys and values it uses, mostly its own.
SOURCE_LAYERS = ("kv_source_layers",)
# The first n layers, or the last n, are of one kind.
LEADING_COUNTS = ("first_k_dense_replace", "max_window_layers", "n_input_layers", "num_dense_layers")
TRAILING_COUNTS = ("n_output_layers", "num_kv_shared_layers")
# Layer i is of the special kind where i % period == offset.
PERIODS = {
    "attention": ("attn_layer_period", "attn_layer_offset"),
    "mlp": ("expert_layer_period", "expert_layer_offset"),
}
# Fields that say what a layer's MLP is; all others speak of its attention, or of both.
OF_THE_MLP = re.compile("mlp|moe|expert|dense|sparse|sparsity|ffn|intermediate|feed_forward")
# The number of layers stands elsewhere than in num_hidden_layers (LongCat counts each layer twice there).
LAYER_COUNT = {"longcat_flash": "num_layers"}
# Fields that repeat num_hidden_layers.
SAME_COUNT = ("num_blocks",)


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The config of the language model: itself, or a part of a multimodal one."""
    return config.get_text_config(decoder=True)


def read_as(written: Fields, like: PretrainedConfig) -> PretrainedConfig:
    """What transformers reads from the content of a config.json, taken for a config of the same class.

    JSON has no infinity; transformers writes it as {"__float__": "Infinity"}.
    """
    return type(like).from_dict(PretrainedConfig._decode_special_floats(copy.deepcopy(written)))


def num_layers(config: PretrainedConfig) -> int:
    """The number of decoder layers that the config speaks of."""
    text = text_config(config)
    name = LAYER_COUNT.get(text.model_type, "num_hidden_layers")
    if not isinstance(getattr(text, name, None), int):
        raise UserError(
            f"{config.model_type} has no {name} in its config: it is no decoder-only language model"
        )
    return getattr(text, name)


def sub_configs(config: PretrainedConfig) -> dict[str, PretrainedConfig]:
    """The parts of a multimodal config, by name; none of another."""
    return {name: part for name in config.sub_configs if (part := getattr(config, name, None)) is not None}


def kept_layers(depth: int, layers: Sequence[int]) -> list[int]:
    """The original indices that remain of `depth` layers, ascending.

    Raises UserError for layers that are not there, are named twice, or are all there are.
    """
    if outside := [i for i in layers if not 0 <= i < depth]:
        raise UserError(f"layer {outside[0]} is not there: the model has layers 0 to {depth - 1}")
    removed = set(layers)
    if len(removed) != len(layers):
        twice = next(i for i in layers if list(layers).count(i) > 1)
        raise UserError(f"layer {twice} is named twice among the layers to remove: name it once")
    if len(removed) == depth:
        raise UserError(f"all {depth} layers would be removed: keep at least one")
    return [i for i in range(depth) if i not in removed]


def mended_fields(config: PretrainedConfig, kept: Sequence[int], mlps: Sequence[int] | None = None) -> Fields:
    """The fields of the text config that change when only the layers `kept` remain, with their new values.

    Where kept layers take others' MLPs, `mlps` are the layers that these are of, one for each kept layer.
    Raises `UserError` where a field is of another form than its family's.
    """
    mlps = kept if mlps is None else mlps
    text = text_config(config)
    old, depth = vars(text), num_layers(config)
    name = LAYER_COUNT.get(text.model_type, "num_hidden_layers")
    fields: Fields = {text.attribute_map.get(name, name): len(kept)}
    fields |= {alias: len(kept) for alias in SAME_COUNT if old.get(alias) == depth}
    for field, value in old.items():
        with _of_its_form(field):
            fields |= _mended_field(field, value, mlps if OF_THE_MLP.search(field) else kept, kept, depth)
    for mends, left in ((ATTENTION_FIELDS, kept), (MLP_FIELDS, mlps)):
        for mend in mends:
            with _of_its_form("what it says of single layers"):
                fields.update(mend(text, left, depth))
    return fields


def _mended_field(field: str, value: Any, left: Sequence[int], kept: Sequence[int], depth: int) -> Fields:
    """A field that the tables name, or a list with an entry a layer, once only the layers `left` remain."""
    if value is None:
        return {}
    if field in LAYER_INDICES:
        first = LAYER_INDICES[field]
        return {field: [new + first for new, i in enumerate(left) if i + first in value]}
    if field in SOURCE_LAYERS:
        return {field: [kept.index(value[i]) if value[i] in kept else value[i] for i in kept]}
    if isinstance(value, (list, tuple)) and len(value) == depth and field not in NOT_PER_LAYER:
        return {field: [value[i] for i in left]}
    if field in LEADING_COUNTS:
        return {field: sum(i < value for i in left)}
    if field in TRAILING_COUNTS:
        return {field: sum(i >= depth - value for i in kept)}
    return {}


@contextmanager
def _of_its_form(what: str) -> Iterator[None]:
    """Turns what a value of a strange form leads to into one line."""
    try:
        yield
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as problem:
        raise UserError(
            f"config.json: {what} is not of the form that this family gives it ({problem}): mend it"
        ) from None


def set_fields(config: PretrainedConfig, fields: Fields) -> None:
    """Writes mended fields into a config, in place; the number of layers comes first, others hang on it."""
    text = text_config(config)
    for field, value in fields.items():
        setattr(text, field, copy.deepcopy(value))


def _sparse_step(text: PretrainedConfig, kept: Sequence[int], depth: int) -> Fields:
    """Every n-th layer has experts unless mlp_only_layers names it: that list alone says the same."""
    if getattr(text, "decoder_sparse_step", None) in (None, 1) or not hasattr(text, "mlp_only_layers"):
        return {}
    step, dense = text.decoder_sparse_step, text.mlp_only_layers or []
    return {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [new for new, i in enumerate(kept) if i in dense or (i + 1) % step],
    }


def _period(of: str, text: PretrainedConfig, kept: Sequence[int], depth: int) -> Fields:
    """Searches a period and an offset that say the kept layers' kinds; leaves them where there is none."""
    period_field, offset_field = PERIODS[of]
    if not hasattr(text, period_field):
        return {}
    period, offset = getattr(text, period_field), getattr(text, offset_field)
    kinds = [i % period == offset for i in kept]
    for new_period in (period, *range(1, len(kept) + 2)):
        for new_offset in range(new_period):
            if kinds == [new % new_period == new_offset for new in range(len(kept))]:
                return {period_field: new_period, offset_field: new_offset}
    return {}


def _moe_range(text: PretrainedConfig, kept: Sequence[int], depth: int) -> Fields:
    """ERNIE 4.5: experts in every n-th layer from a first to a last one."""
    if not hasattr(text, "moe_layer_interval"):
        return {}
    start, interval = text.moe_layer_start_index, text.moe_layer_interval
    end = depth - 1 if text.moe_layer_end_index == -1 else text.moe_layer_end_index

    def experts(i: int, interval: int, start: int, end: int) -> bool:
        return (i + 1) % interval == 0 and start <= i <= end

    kinds = [experts(i, interval, start, end) for i in kept]
    if not any(kinds):
        return {"moe_layer_start_index": len(kept), "moe_layer_end_index": len(kept)}
    first, last = kinds.index(True), len(kinds) - 1 - kinds[::-1].index(True)
    for candidate in range(1, len(kept) + 1):
        if kinds == [experts(new, candidate, first, last) for new in range(len(kept))]:
            return {
                "moe_layer_interval": candidate,
                "moe_layer_start_index": first,
                "moe_layer_end_index": last,
            }
    return {}


def _repeated_blocks(text: PretrainedConfig, kept: Sequence[int], depth: int) -> Fields:
    """RecurrentGemma: a short pattern, repeated down the layers, is written out."""
    if not hasattr(text, "block_types"):
        return {}
    return {"block_types": [text.block_types[i % len(text.block_types)] for i in kept]}


def _attention_types(text: PretrainedConfig, kept: Sequence[int], depth: int) -> Fields:
    """GPT-Neo: [[kinds of layer, how often they repeat], …] is written out."""
    if not hasattr(text, "attention_types"):
        return {}
    return {"attention_types": [[[text.attention_layers[i] for i in kept], 1]]}


def _scale_depth(text: PretrainedConfig, kept: Sequence[int], depth: int) -> Fields:
    """MiniCPM3 scales each residual branch by scale_depth / √L."""
    if not hasattr(text, "scale_depth"):
        return {}
    return {"scale_depth": text.scale_depth / math.sqrt(depth) * math.sqrt(len(kept))}


def _recurrent_layers(text: PretrainedConfig, kept: Sequence[int], depth: int) -> Fields:
    """Dory: what lies between the first and the last layers is passed several times."""
    if not hasattr(text, "n_recurrent_layers"):
        return {}
    first, last = text.n_input_layers, depth - text.n_output_layers
    return {"n_recurrent_layers": sum(first <= i < last for i in kept)}


def _per_layer_config(text: PretrainedConfig, kept: Sequence[int], depth: int) -> Fields:
    """Overrides of single layers, by their index."""
    if "per_layer_config" not in (saved := text.to_dict()):
        return {}
    overrides = {int(i): value for i, value in (saved["per_layer_config"] or {}).items()}
    return {"per_layer_config": {new: overrides[i] for new, i in enumerate(kept) if i in overrides}}


def _next_token_layers(text: PretrainedConfig, kept: Sequence[int], depth: int) -> Fields:
    """Layers for speculative decoding lie behind the last one on disk; transformers does not load them."""
    return {
        name: 0 for name in ("num_nextn_predict_layers", "num_mtp_layers") if vars(text).get(name) is not None
    }


Mend = Callable[[PretrainedConfig, Sequence[int], int], Fields]
ATTENTION_FIELDS: tuple[Mend, ...] = (
    partial(_period, "attention"),
    _repeated_blocks,
    _attention_types,
    _scale_depth,
    _recurrent_layers,
    _per_layer_config,
    _next_token_layers,
)
MLP_FIELDS: tuple[Mend, ...] = (_sparse_step, partial(_period, "mlp"), _moe_range)
