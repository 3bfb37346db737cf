"""Whether a pruned config says what the kept layers are: its model is built without weights and compared."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from depthprune.errors import UserError
from depthprune.model.anatomy import layers_path
from depthprune.model.depth_config import (
    Fields,
    kept_layers,
    mended_fields,
    num_layers,
    set_fields,
    text_config,
)
from depthprune.model.side_inputs import side_input_fault
from depthprune.model.skeleton import skeleton
from depthprune.model.sublayers import MlpFrom, Sides, check_mlp_from, exchange_mlps, layer_sides

# Attributes that number a layer and choose its part of the cache: they follow its new place.
OWN_INDEX = ("block_idx", "layer_id", "layer_idx", "layer_index", "layer_num", "layer_number")
# Attributes that name another layer: it must be the same layer in its new place.
OTHER_INDEX = ("kv_shared_layer_index",)
# A layer keeps its keys and values for later ones; a layer takes an earlier one's in place of its own.
KEEPS_KEYS, TAKES_KEYS = "store_full_length_kv", "is_kv_shared_layer"
# What a model says of the weights that it ties, where that hangs on its layers' numbers.
TIED = "_tied_weights_keys"

Traits = dict[str, Any]
ABSENT = "absent"


@dataclass(frozen=True)
class Shallower:
    """A pruned config, the fields that it changes, and what the model's modules take from it at construction.

    `attributes` maps a module's path in the pruned model to the attributes that are no longer what they were;
    `packed` maps a parameter outside the layers to the dimension along which it holds a part for each layer;
    `sides` divides each original layer, where kept ones take others' MLPs.
    """

    config: PretrainedConfig
    fields: Fields
    kept: list[int]
    attributes: dict[str, Traits]
    packed: dict[str, int]
    sides: Sequence[Sides] = ()


def pruned_config(
    config: PretrainedConfig,
    layers: Sequence[int],
    trust_remote_code: bool = False,
    mlp_from: MlpFrom | None = None,
) -> PretrainedConfig:
    """A copy of the config for the model without `layers` (original indices).

    Raises UserError where the family's config cannot say what would remain, and names layers that could go.
    """
    return shallower(config, layers, trust_remote_code=trust_remote_code, mlp_from=mlp_from).config


def shallower(
    config: PretrainedConfig,
    layers: Sequence[int],
    model_class: type[PreTrainedModel] | None = None,
    trust_remote_code: bool = False,
    mlp_from: MlpFrom | None = None,
) -> Shallower:
    """As `pruned_config`, with what a model in memory has to follow."""
    kept = kept_layers(num_layers(config), layers)
    if model_class is None:
        whole = skeleton(copy.deepcopy(config), trust_remote_code)
    else:
        whole = _build(model_class, config)
    if mlp_from:
        return _with_other_mlps(config, kept, layers, mlp_from, whole)
    result = _try(config, kept, whole)
    if isinstance(result, Shallower):
        return result
    raise UserError(
        f"{config.model_type}'s config cannot say what remains without layers {_ranges(sorted(layers))}: "
        f"{result}; {_could_go(config, len(layers), whole)}"
    )


def _with_other_mlps(
    config: PretrainedConfig,
    kept: list[int],
    layers: Sequence[int],
    mlp_from: MlpFrom,
    whole: PreTrainedModel,
) -> Shallower:
    """What remains is compared with the whole model's layers after they were given each other's MLPs."""
    check_mlp_from(mlp_from, layers, num_layers(config))
    sides = layer_sides(whole)
    exchange_mlps(whole, mlp_from, sides)
    result = _try(config, kept, whole, [mlp_from.get(i, i) for i in kept])
    if isinstance(result, Shallower):
        return replace(result, sides=sides)
    taken = ", ".join(f"layer {i} with the MLP of layer {other}" for i, other in sorted(mlp_from.items()))
    raise UserError(f"{config.model_type}'s config cannot say {taken}: {result}; remove whole layers")


def _build(model_class: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """As transformers does it: a language model out of a multimodal config takes its part of that."""
    kind: Any = model_class.config_class
    text = text_config(config)
    own = text if isinstance(text, kind) and not isinstance(config, kind) else config
    with torch.device("meta"):
        return model_class._from_config(copy.deepcopy(own))


def _could_go(config: PretrainedConfig, count: int, whole: PreTrainedModel) -> str:
    """The windows of `count` layers, or else the single layers, that the config can do without."""
    depth = num_layers(config)
    for size in dict.fromkeys((count, 1)):
        windows = [list(range(first, first + size)) for first in range(depth - size + 1)]
        possible = []
        for window in windows:
            kept = [i for i in range(depth) if i not in window]
            if isinstance(_try(config, kept, whole), Shallower):
                possible.append(_ranges(window))
        if possible:
            what = "layers" if size == 1 else f"windows of {size} layers"
            return f"{what} that could go: {', '.join(possible)}"
    return "no layer of it could go"


def _ranges(indices: Sequence[int]) -> str:
    """[1, 2, 3, 7] as "1-3, 7"."""
    runs: list[list[int]] = []
    for i in indices:
        if runs and i == runs[-1][-1] + 1:
            runs[-1].append(i)
        else:
            runs.append([i])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _try(
    config: PretrainedConfig, kept: list[int], whole: PreTrainedModel, mlps: list[int] | None = None
) -> Shallower | str:
    """The pruned config, or the reason why there is none."""
    layers = whole.get_submodule(layers_path(whole))
    assert isinstance(layers, nn.ModuleList)
    if fault := side_input_fault(config, kept, layers, isinstance(whole.config, type(config))):
        return fault
    fields = mended_fields(config, kept, mlps)
    new_config = copy.deepcopy(config)
    try:
        set_fields(new_config, fields)
        # As it will be read from disk: what the config derives from other fields is derived again.
        reread = type(config).from_dict(new_config.to_dict())
        pruned = _build(type(whole), reread)
    except Exception as error:  # each family refuses in its own way, from ValueError to dataclass validators
        return " ".join(str(error).split())[:200]
    if _attends(config) and not _attends(reread):
        return "no attention layer would remain, and transformers' cache needs one"
    return _compare(whole, pruned, Shallower(new_config, fields, kept, {}, {}))


def _attends(config: PretrainedConfig) -> bool:
    """Whether a layer of a family with several kinds of layer has a KV cache; True for all other families."""
    kinds = getattr(text_config(config), "layer_types", None) or ["full_attention"]
    return any(
        kind.startswith("hybrid") or (kind.endswith("attention") and kind != "linear_attention")
        for kind in kinds
    )


def _compare(whole: PreTrainedModel, pruned: PreTrainedModel, result: Shallower) -> Shallower | str:
    """Fills in what follows the new config, or says what would no longer be as it was."""
    path, kept = layers_path(whole), result.kept
    if layers_path(pruned) != path:
        return "its layers would lie elsewhere"
    old_layers, new_layers = whole.get_submodule(path), pruned.get_submodule(path)
    assert isinstance(old_layers, nn.ModuleList) and isinstance(new_layers, nn.ModuleList)
    saved = whole.state_dict().keys()
    kept_for_none = not any(getattr(module, TAKES_KEYS, False) for module in new_layers.modules())
    for new, old in enumerate(kept):
        before, after = _traits(old_layers[old]), _traits(new_layers[new])
        for (module, name), was, now in _differences(before, after):
            if not (_follows(name, was, now, kept) or (name == KEEPS_KEYS and kept_for_none)):
                return f"{name} of layer {old} would be {now} instead of {was}"
            result.attributes.setdefault(f"{path}.{new}.{module}".rstrip("."), {})[name] = now
    for (module, name), was, now in _differences(_traits(whole, path), _traits(pruned, path)):
        if now == ABSENT and f"{module}.{name}".lstrip(".") not in saved:
            continue  # what a kind of layer needed of which none remains, e.g. its rotary frequencies
        if isinstance(was, torch.Size) or isinstance(now, torch.Size):
            dimension = _packed_dimension(was, now, num_layers(whole.config), len(kept))
            if dimension is None:
                return f"{module}.{name} outside the layers would be {now} instead of {was}"
            result.packed[f"{module}.{name}"] = dimension
        elif name == "__class__":
            return f"{module} outside the layers would be {now} instead of {was}"
        else:
            result.attributes.setdefault(module, {})[name] = now
    return result


def _traits(module: nn.Module, without: str | None = None) -> dict[tuple[str, str], Any]:
    """Classes, shapes and plain attributes of a module and all in it, by (path, name)."""
    found: dict[tuple[str, str], Any] = {}
    for path, part in module.named_modules():
        if without is not None and (path == without or path.startswith(f"{without}.")):
            continue
        found[path, "__class__"] = type(part).__qualname__
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            found[path, name] = tensor.shape
        for name, value in vars(part).items():
            if (not name.startswith("_") or name == TIED) and _is_plain(value):
                found[path, name] = list(value) if isinstance(value, tuple) else value
    return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str, type(None)))


def _differences(before: dict, after: dict) -> list[tuple[tuple[str, str], Any, Any]]:
    keys = list(dict.fromkeys((*before, *after)))
    pairs = [(key, before.get(key, ABSENT), after.get(key, ABSENT)) for key in keys]
    return [(key, was, now) for key, was, now in pairs if was != now]


def _follows(name: str, was: Any, now: Any, kept: list[int]) -> bool:
    """Whether a layer that has this attribute now computes as it did."""
    if name in OWN_INDEX:
        return True
    if name in OTHER_INDEX:
        return was in kept and now == kept.index(was)
    if isinstance(was, (list, dict)) and set(was) <= set(kept) and now == _renumbered(was, kept):
        return True  # numbers of layers
    if isinstance(was, list) and was != now and len(was) > max(kept):
        return now == [was[i] for i in kept]  # the config's own list of all layers
    # √L in and out of a config field costs a last bit.
    return isinstance(was, float) and isinstance(now, float) and math.isclose(was, now, rel_tol=1e-12)


def _renumbered(numbers: list | dict, kept: list[int]) -> list | dict:
    """Layers' numbers, or what is kept by them, once only the layers `kept` remain."""
    if isinstance(numbers, dict):
        return {kept.index(number): value for number, value in numbers.items()}
    return [kept.index(number) for number in numbers]


def _packed_dimension(was: Any, now: Any, depth: int, kept: int) -> int | None:
    """The dimension whose size went from n·L to n·kept, if that is all that changed."""
    if was == ABSENT or now == ABSENT or len(was) != len(now):
        return None
    changed = [d for d in range(len(was)) if was[d] != now[d]]
    if len(changed) == 1 and was[changed[0]] * kept == now[changed[0]] * depth:
        return changed[0]
    return None
