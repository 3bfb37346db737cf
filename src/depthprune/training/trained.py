"""What a training changes: which tensors, and how many parameters."""

from typing import Any

from torch import nn

from depthprune.model.anatomy import is_peft, layers_path, tied_embeddings, unwrap


def trained_tensors(model: nn.Module) -> dict[str, Any]:
    """`what` in words, the names of the `tensors`, and the numbers of `trained` and of all `parameters`.

    Adapters do not count among all parameters: they will be merged.
    """
    if is_peft(model):
        trained, everything = model.get_nb_trainable_parameters()  # type: ignore[operator]  # 4 bits and all
        everything -= trained
    else:
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        everything = sum(weight.numel() for weight in model.parameters())
    names = [
        name.removeprefix("base_model.model.").replace(".default", "").replace(".base_layer", "")
        for name, weight in model.named_parameters()
        if weight.requires_grad
    ]
    what = "every weight" if trained == everything else ", ".join(_in_words(model, names))
    return {"what": what, "trained": trained, "parameters": everything, "tensors": names}


def _in_words(model: nn.Module, names: list[str]) -> list[str]:
    """The modules beside the layers by name, then the layers by number."""
    prefix = f"{layers_path(model)}."
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names if not name.startswith(prefix)))
    embedding = unwrap(model).get_input_embeddings()
    if tied_embeddings(model):
        shared = next(name for name, module in unwrap(model).named_modules() if module is embedding)
        modules = [f"{name} (and with it the head)" if name == shared else name for name in modules]
    layers = sorted(
        {int(name.removeprefix(prefix).split(".")[0]) for name in names if name.startswith(prefix)}
    )
    if not layers:
        return modules
    last = f"–{layers[-1]}" if len(layers) > 1 else ""
    kind = "adapters in layers" if is_peft(model) else "layers" if last else "layer"
    return [*modules, f"{kind} {layers[0]}{last}"]
