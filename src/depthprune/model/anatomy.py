"""Where a model keeps its decoder layers, their linear weights, its final norm and its head."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from depthprune.errors import UserError
from depthprune.model.depth_config import num_layers
from depthprune.model.shards import LAYER_LISTS

# The MLP's output projection, by the end of its name; the first that fits.
DOWN_PROJECTIONS = (
    "down_proj",
    "mlp.c_proj",
    "dense_4h_to_h",
    "mlp.output_linear",
    "mlp.fc2",
    "fc2",
    "fc_out",
    "feed_forward.w2",
    "ffn.w_out",
    "ffn.proj_down",
    "ffn.2",
)
# The norm before the head, among the modules beside the layers; the first that is there.
FINAL_NORMS = (
    "norm",
    "ln_f",
    "norm_f",
    "final_norm",
    "final_layernorm",
    "final_layer_norm",
    "embedding_norm",
    "ln_out",
    "out_norm",
    "output_layernorm",
    "layer_norm",
    "layernorm",
)
# Names of a mixture's routers; "gate" is one only beside experts.
ROUTERS = ("router", "shared_expert_gate")
# Experts stored [E, in, out] by classes that do not say so themselves.
TRANSPOSED_EXPERTS = ("Llama4TextExperts",)
# PEFT takes targets with these names for experts of old checkpoints, and drops the dense linears called so:
# in a mixture they are targeted as parameters.
TAKEN_FOR_EXPERTS = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")
# Linears whose input is not [.., in]: PEFT's adapters do not fit.
WITHOUT_ADAPTER = {"DeepseekV4GroupedLinear": "works on groups of heads, PEFT has no adapter for it"}


@dataclass(frozen=True)
class LinearWeight:
    """One linear weight of a layer.

    `parameter` is [out, in], or [in, out] where `transposed` (GPT-2's Conv1D, gpt_oss's and Llama 4's
    experts). Stacked experts have a leading dimension: `experts` is their number E, None for other linears.
    """

    name: str
    parameter: nn.Parameter
    transposed: bool = False
    experts: int | None = None


@dataclass(frozen=True)
class LoraTargets:
    """What PEFT's LoraConfig is to be given: full paths of modules, and of stacked expert parameters.

    `without_adapter` names the linears in the layers that get none, each with the reason. With
    `target_parameters` PEFT needs lora_dropout = 0.
    """

    target_modules: list[str]
    target_parameters: list[str]
    without_adapter: list[str]


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model inside a DDP or PEFT wrapper; adapters stay in place."""
    while not isinstance(model, PreTrainedModel):
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif is_peft(model):
            model = model.get_base_model()  # type: ignore[operator]
        else:
            raise UserError(
                f"{type(model).__name__} is no Hugging Face model: load it with AutoModelForCausalLM"
            )
    return model


def is_peft(model: nn.Module) -> bool:
    """Whether it is a PeftModel, asked without importing peft, which takes seconds."""
    return hasattr(model, "get_base_model")


def layers_path(model: nn.Module) -> str:
    """The dotted path of the decoder layers inside the Hugging Face model, e.g. "model.layers".

    Raises UserError for an encoder-decoder model, and where there is no one list of the config's length.
    """
    model = unwrap(model)
    kind = model.config.model_type
    if model.config.is_encoder_decoder:
        raise UserError(f"{kind} is an encoder-decoder model: only decoder-only models can be pruned")
    depth = num_layers(model.config)
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    lists = _lists_of(model, depth)
    inside = [path for path in lists if path.startswith(f"{prefix}." if prefix else "")]
    named = [path for path in inside if path.rpartition(".")[2] in LAYER_LISTS]
    for paths in (inside, named, lists):
        if len(paths) == 1:
            return paths[0]
    found = f"{len(inside)} lists of that length" if inside else "no such list"
    raise UserError(f"{kind} says that it has {depth} decoder layers and holds {found}: it cannot be pruned")


def _lists_of(model: nn.Module, length: int) -> list[str]:
    """The outermost module lists of this length."""
    paths: list[str] = []
    for path, module in model.named_modules():
        outermost = not any(path.startswith(f"{other}.") for other in paths)
        if isinstance(module, nn.ModuleList) and len(module) == length and outermost:
            paths.append(path)
    return paths


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers, in order; PEFT and DDP wrappers are seen through."""
    model = unwrap(model)
    layers = model.get_submodule(layers_path(model))
    assert isinstance(layers, nn.ModuleList)
    return layers


def decoder(model: nn.Module) -> nn.Module:
    """The module that turns token ids into the hidden states that the head reads."""
    model = unwrap(model)
    found, stack = model.get_decoder(), model.get_submodule(layers_path(model).rpartition(".")[0])
    # Llama 4's text model names itself there, ModernBERT's decoder its head.
    holds_layers = found is not model and any(module is stack for module in found.modules())
    return found if holds_layers else stack


def linear_weights(layer: nn.Module) -> dict[str, LinearWeight]:
    """Every linear weight of a layer by its dotted name in the layer, found by type; routers are left out.

    With adapters in place, these are the base weights under the names that they have without.
    """
    weights = {}
    for path, module in layer.named_modules():
        if _is_router(layer, path) or any(part.startswith("lora_") for part in path.split(".")):
            continue
        for weight in _weights_of(module, path.replace(".base_layer", "")):
            weights[weight.name] = weight
    return weights


def _weights_of(module: nn.Module, path: str) -> Iterator[LinearWeight]:
    kind = type(module).__name__
    if isinstance(module, (nn.Linear, Conv1D)):
        weight = module.weight
        assert isinstance(weight, nn.Parameter)
        yield LinearWeight(f"{path}.weight", weight, transposed=isinstance(module, Conv1D))
    elif "Experts" in kind:
        transposed = kind in TRANSPOSED_EXPERTS or getattr(module, "is_transposed", False) is True
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 3:
                yield LinearWeight(f"{path}.{name}", parameter, transposed, len(parameter))


def _is_router(layer: nn.Module, path: str) -> bool:
    parts = path.split(".")
    if any(part in ROUTERS for part in parts):
        return True
    if "gate" not in parts:
        return False
    block = layer.get_submodule(".".join(parts[: parts.index("gate")]))
    return any(name == "experts" for name, _ in block.named_children())


def one_of_each_kind(model: nn.Module) -> list[int]:
    """The first layer of each kind: two are alike where they are made of the same classes of modules."""
    kinds: dict[tuple[type, ...], int] = {}
    for i, layer in enumerate(decoder_layers(model)):
        kinds.setdefault(tuple(type(module) for module in layer.modules()), i)
    return list(kinds.values())


def is_mixture(layer: nn.Module) -> bool:
    """Whether the layer has experts."""
    return any(weight.experts is not None for weight in linear_weights(layer).values())


def down_projection(layer: nn.Module) -> LinearWeight | None:
    """The output projection of the layer's MLP, the experts' one in a mixture; None where it has none."""
    weights = sorted(linear_weights(layer).values(), key=lambda weight: weight.experts is None)
    for ending in DOWN_PROJECTIONS:
        for weight in weights:
            if f".{weight.name.removesuffix('.weight')}".endswith(f".{ending}"):
                return weight
    return None


def final_norm(model: nn.Module) -> nn.Module:
    """The norm between the last layer and the head; raises UserError where the model has none."""
    model = unwrap(model)
    beside = dict(model.get_submodule(layers_path(model).rpartition(".")[0]).named_children())
    for name in FINAL_NORMS:
        if name in beside:
            return beside[name]
    raise UserError(f"{model.config.model_type} has no norm after its last layer")


def lm_head(model: nn.Module) -> nn.Module:
    """The output embedding; raises UserError where the model has none."""
    model = unwrap(model)
    head = model.get_output_embeddings()
    if head is None:
        raise UserError(
            f"{model.config.model_type} has no language-model head: load it with AutoModelForCausalLM"
        )
    return head


def tied_embeddings(model: nn.Module) -> bool:
    """Whether the head and the input embedding are one tensor."""
    return lm_head(model).weight is unwrap(model).get_input_embeddings().weight


def lora_targets(model: nn.Module) -> LoraTargets:
    """The linears and stacked experts inside the decoder layers, routers excluded."""
    path, layers = layers_path(model), decoder_layers(model)
    targets = LoraTargets([], [], [])
    weights = {
        f"{path}.{i}.{name}": w for i, layer in enumerate(layers) for name, w in linear_weights(layer).items()
    }
    mixture = any(weight.experts is not None for weight in weights.values())
    inner = unwrap(model)
    for full, weight in weights.items():
        module = full.removesuffix(".weight")
        kind = type(inner.get_submodule(module)).__name__ if weight.experts is None else ""
        if kind in WITHOUT_ADAPTER:
            targets.without_adapter.append(f"{module}: {WITHOUT_ADAPTER[kind]}")
        elif weight.experts is not None or (mixture and module.rpartition(".")[2] in TAKEN_FOR_EXPERTS):
            targets.target_parameters.append(full)
        else:
            targets.target_modules.append(module)
    for name, found in inner.get_submodule(path).named_modules(prefix=path):
        if isinstance(found, nn.Linear) and f"{name}.weight" not in weights:
            targets.without_adapter.append(f"{name}: a router")
    return targets


def parameters_per_layer(model: nn.Module) -> list[int]:
    """The number of parameters of each decoder layer; a model on the meta device will do."""
    return [sum(parameter.numel() for parameter in layer.parameters()) for layer in decoder_layers(model)]
