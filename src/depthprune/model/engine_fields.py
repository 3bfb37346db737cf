"""Fields of config.json that other engines read and transformers does not, or reads elsewhere."""

import copy
import re
from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PretrainedConfig

from depthprune.model.depth_config import read_as, text_config

Json = dict[str, Any]
# How many layers for speculative decoding lie behind the others on disk.
NEXT_TOKEN_LAYERS = (
    "mtp_num_hidden_layers",
    "num_mtp_layers",
    "num_mtp_modules",
    "num_nextn_predict_layers",
    "use_mtp",
)
# Every n-th layer is of the second kind: (i + 1) % n == 0. transformers reads lists in their place.
PERIODS = {
    "full_attention_interval": "layer_types",
    "no_rope_layer_interval": "no_rope_layers",
    "sliding_window_pattern": "layer_types",
    "_sliding_window_pattern": "layer_types",
}
# Families whose period engines take for granted where config.json has none (mlx-lm's defaults).
ASSUMED = {
    "cohere2": "sliding_window_pattern",
    "gemma3_text": "sliding_window_pattern",
    "qwen3_5_moe_text": "full_attention_interval",
    "qwen3_5_text": "full_attention_interval",
    "qwen3_next": "full_attention_interval",
}
LETTERS = "hybrid_override_pattern"
LETTER = {"linear_attention": "M", "full_attention": "*", "mlp": "-", "moe": "E"}
NUMBERED = {"full_attn_layers": "full_attention", "kda_layers": "linear_attention"}
LAYER_KINDS = ("layer_types", "no_rope_layers")
SPECIAL = {"layer_types": "full_attention", "no_rope_layers": 0}


def pattern_notes(config: PretrainedConfig, kept: Sequence[int]) -> tuple[str, ...]:
    """What to know where the base's kinds of layer repeat with a period, and the kept layers' do not.

    llama.cpp and mlx-lm have such periods built in for some families, and take a layer for what it is not.
    """
    text = text_config(config)
    for field in LAYER_KINDS:
        kinds = getattr(text, field, None)
        if not isinstance(kinds, (list, tuple)) or (period := repeats_after(kinds)) is None:
            continue
        wrong = [new for new, i in enumerate(kept) if kinds[i] != kinds[new % period]]
        if wrong:
            return (
                f"The kinds of layer of {text.model_type} repeat every {period} layers, and those that "
                f"remain do not ({field}, from layer {wrong[0]} on): engines that read that list "
                "(transformers) are right; those with the period built in (llama.cpp and mlx-lm for some "
                "families, Gemma 3 among them) compute something else, or refuse. Compare before you use "
                "one, or keep the period.",
            )
    return ()


def spelling_notes(stated: Json) -> tuple[str, ...]:
    """What to know about a base whose config.json has its rotary fields in the newest spelling alone."""
    ropes = [part["rope_parameters"] for part in _with_rope(stated) if "rope_theta" not in part]
    told = [rope for rope in ropes if "rope_theta" in rope]  # by kind of layer, defaults are mostly right
    if all(rope["rope_theta"] == 10000 and rope.get("rope_type", "default") == "default" for rope in told):
        return ()
    return (
        "The base's own config.json has its rotary fields in transformers 5's spelling alone: transformers 4 "
        "and mlx-lm do not find them in the base and take their defaults, without a word. The model written "
        "here has them in both spellings: compare it with the base in transformers 5.",
    )


def repeats_after(kinds: Sequence[Any]) -> int | None:
    """The shortest period of a list of which at least two kinds repeat; None where there is none."""
    for period in range(2, len(kinds) // 2 + 1):
        if all(kind == kinds[i % period] for i, kind in enumerate(kinds)) and len(set(kinds)) > 1:
            return period
    return None


def mend_period(section: Json, text: PretrainedConfig) -> None:
    """Makes a stated or assumed period say what the list of kinds says, or null where no period does.

    Engines that read only the period refuse null, where another number would be wrong without a word.
    """
    names = {name for name in PERIODS if name in section}
    if assumed := ASSUMED.get(text.model_type):
        names.add(assumed)
    for name in sorted(names):
        field = PERIODS[name]
        kinds = getattr(text, field, None)
        if not kinds or _says(section.get(name), kinds, field):
            continue
        if name not in section and _says(_default(type(text), name, field), kinds, field):
            continue
        if isinstance(section.get(name), str):
            section[name] = "".join("G" if kind == "full_attention" else "L" for kind in kinds)
        elif (period := _period(kinds, field)) is not None or not hasattr(type(text), name):
            section[name] = period  # a class that declares it as a number would not load null
        section[field] = list(kinds)


def mend_kinds(section: Json, text: PretrainedConfig) -> None:
    """Makes what some families' config.json says of the layers' kinds elsewhere say what layer_types does.

    Nemotron-H has a letter for each layer, Kimi Linear the numbers of the layers of each kind, from 1.
    """
    kinds = getattr(text, "layer_types", None) or []
    if isinstance(section.get(LETTERS), str) and all(kind in LETTER for kind in kinds):
        section[LETTERS] = "".join(LETTER[kind] for kind in kinds)
    numbers = section.get("linear_attn_config")
    for name, kind in NUMBERED.items():
        if isinstance(numbers, dict) and name in numbers:
            numbers[name] = [number for number, found in enumerate(kinds, start=1) if found == kind]


def _says(period: Any, kinds: Sequence[Any], field: str) -> bool:
    """Whether a period (or a pattern such as LLLG) says of every layer what the list does."""
    special = [kind == SPECIAL[field] for kind in kinds]
    if isinstance(period, str) and period:
        return special == [period[i % len(period)] == "G" for i in range(len(kinds))]
    if not isinstance(period, int) or period < 1:
        return not any(special) and period in (0, None)
    return special == [(i + 1) % period == 0 for i in range(len(kinds))]


def _period(kinds: Sequence[Any], field: str) -> int | None:
    return next((n for n in range(1, len(kinds) + 2) if _says(n, kinds, field)), None)


def _default(config_class: type[PretrainedConfig], name: str, field: str) -> int | None:
    """The period that a family has where its config.json is silent: that of its default config."""
    kinds = getattr(config_class(), field, None) or []
    return _period(kinds, field)


def without_next_token_layers(section: Json, tensors: Iterable[str]) -> None:
    """Says that there are no layers for speculative decoding, where there are none among the tensors on disk.

    transformers does not load such layers, and so does not save them.
    """
    depth = section.get("num_hidden_layers")
    for name in tensors:
        number = re.search(r"\.layers\.(\d+)\.", name)
        behind = number is not None and isinstance(depth, int) and int(number[1]) >= depth
        if behind or re.search(r"(^|[._])(mtp|nextn)", name):
            return
    for field in NEXT_TOKEN_LAYERS:
        if section.get(field):
            section[field] = type(section[field])(0)


def add_classic_rope(written: Json, config: PretrainedConfig) -> Json:
    """config.json with the rotary fields as engines before transformers 5 read them, beside its own.

    Those engines take 10000 for a rope_theta that they do not find. Fields that would change what
    transformers reads are left out.
    """
    result = copy.deepcopy(written)
    for section in _with_rope(result):
        for fields in _classic(section["rope_parameters"]):
            before = copy.deepcopy(section)
            section.update({key: value for key, value in fields.items() if key not in section})
            if not _reads_equal(result, written, config):
                section.clear()
                section.update(before)
    return result


def _with_rope(written: Json) -> list[Json]:
    sections = [written, *(part for part in written.values() if isinstance(part, dict))]
    return [part for part in sections if isinstance(part.get("rope_parameters"), dict)]


def _classic(rope: Json) -> list[Json]:
    """The fields to add, in steps: each stands only if transformers reads the same as before."""
    if nested := {key: value for key, value in rope.items() if isinstance(value, dict)}:
        if nested.keys() != {"full_attention", "sliding_attention"}:
            return []
        local = {"rope_local_base_freq": nested["sliding_attention"].get("rope_theta")}
        return [{"rope_theta": nested["full_attention"].get("rope_theta"), **local}]
    if "rope_theta" not in rope:
        return []
    steps = [{"rope_theta": rope["rope_theta"]}]
    if "partial_rotary_factor" in rope:
        steps.append({"partial_rotary_factor": rope["partial_rotary_factor"]})
    if rope.get("rope_type", "default") != "default":
        scaling = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
        steps.append({"rope_scaling": scaling})
    return steps


def _reads_equal(one: Json, other: Json, config: PretrainedConfig) -> bool:
    def read(written: Json) -> str:
        return read_as(written, config).to_json_string(use_diff=False)

    try:
        return read(one) == read(other)
    except Exception:  # each family refuses in its own way
        return False
