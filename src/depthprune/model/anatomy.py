"""Where a model keeps its decoder layers, their linear weights, its final norm and its head."""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from depthprune.errors import UserError
from depthprune.model.depth_config import num_layers


@dataclass(frozen=True)
class LinearWeight:
    """One linear weight of a layer.

    `parameter` is [out, in]; [in, out] where `transposed` (GPT-2's Conv1D, gpt_oss experts). Stacked experts have
    a leading dimension: `experts` is their number E, and None for an ordinary linear.
    """

    name: str
    parameter: nn.Parameter
    transposed: bool = False
    experts: int | None = None


def unwrap(model: nn.Module) -> PreTrainedModel:
    """The Hugging Face model inside a DDP or PEFT wrapper; adapters stay in place."""
    while not isinstance(model, PreTrainedModel):
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "get_base_model"):  # PeftModel: not imported, since it costs a second
            model = model.get_base_model()
        else:
            raise UserError(
                f"{type(model).__name__} is not a Hugging Face model: load it with AutoModelForCausalLM"
            )
    return model


def layers_path(model: nn.Module) -> str:
    """The dotted path of the decoder layers inside the Hugging Face model, e.g. "model.layers"."""
    model = unwrap(model)
    config = model.config
    if config.is_encoder_decoder:
        raise UserError(
            f"{config.model_type} is an encoder-decoder model; only decoder-only models can be pruned"
        )
    decoder = model.get_decoder()
    depth = num_layers(config)
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    paths: list[str] = []
    for name, module in decoder.named_modules():
        outermost = not any(name.startswith(f"{path}.") for path in paths)
        if isinstance(module, nn.ModuleList) and len(module) == depth and outermost:
            paths.append(name)
    if len(paths) != 1:
        found = f"{len(paths)} lists of that length" if paths else "no such list"
        raise UserError(
            f"{config.model_type} says it has {depth} decoder layers and holds {found}: cannot be pruned"
        )
    return f"{prefix}.{paths[0]}" if prefix else paths[0]


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The decoder layers, in order; wrapped models (PEFT, DDP) are seen through."""
    model = unwrap(model)
    layers = model.get_submodule(layers_path(model))
    assert isinstance(layers, nn.ModuleList)
    return layers


def linear_weights(layer: nn.Module) -> dict[str, LinearWeight]:
    """Every linear weight of a layer by its dotted name in the layer, found by type; routers are left out."""
    weights = {}
    for name, module in layer.named_modules():
        if isinstance(module, nn.Linear):
            weights[f"{name}.weight"] = LinearWeight(f"{name}.weight", module.weight)
        elif isinstance(module, Conv1D):
            weights[f"{name}.weight"] = LinearWeight(f"{name}.weight", module.weight, transposed=True)
    return weights


def down_projection(layer: nn.Module) -> LinearWeight | None:
    """The output projection of the layer's MLP, or None where it has none."""
    for name, weight in linear_weights(layer).items():
        if name.split(".")[-2] in DOWN_PROJECTIONS:
            return weight
    return None


DOWN_PROJECTIONS = ("down_proj",)


def final_norm(model: nn.Module) -> nn.Module:
    """The norm between the last layer and the head."""
    return unwrap(model).get_decoder().norm


def lm_head(model: nn.Module) -> nn.Module:
    """The output embedding."""
    return unwrap(model).get_output_embeddings()


def tied_embeddings(model: nn.Module) -> bool:
    """Whether the head and the input embedding are one tensor."""
    model = unwrap(model)
    return lm_head(model).weight is model.get_input_embeddings().weight


@dataclass(frozen=True)
class LoraTargets:
    """What PEFT's LoraConfig is to be given, and which linears get no adapter, with the reason."""

    target_modules: list[str]
    target_parameters: list[str]
    without_adapter: list[str]


def lora_targets(model: nn.Module) -> LoraTargets:
    """The linears inside the decoder layers, routers excluded, by their full module paths."""
    path, layers = layers_path(model), decoder_layers(model)
    modules = [
        f"{path}.{i}.{name.removesuffix('.weight')}"
        for i, layer in enumerate(layers)
        for name in linear_weights(layer)
    ]
    return LoraTargets(modules, [], [])


def parameters_per_layer(model: nn.Module) -> list[int]:
    """The number of parameters of each decoder layer; a model on the meta device will do."""
    return [sum(parameter.numel() for parameter in layer.parameters()) for layer in decoder_layers(model)]
