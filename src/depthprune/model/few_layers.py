"""A model of which only the layers that are worked on hold weights, read from a checkpoint's files."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from depthprune.model.anatomy import decoder_layers
from depthprune.model.shards import TORCH_DTYPES, Shard


def lies_as_in_memory(whole: nn.Module, shards: Sequence[Shard], prefix: str, dtype: torch.dtype) -> bool:
    """Whether the files hold each layer's tensors under the model's own names and shapes, all in `dtype`."""
    stored = {name: tensor for shard in shards for name, tensor in shard.tensors.items()}
    dtypes = {TORCH_DTYPES.get(tensor["dtype"]) for tensor in stored.values()}
    if dtypes != {str(dtype).removeprefix("torch.")}:
        return False
    return all(
        stored.get(f"{prefix}{number}.{name}", {}).get("shape") == list(tensor.shape)
        for number, layer in enumerate(decoder_layers(whole))
        for name, tensor in layer.state_dict().items()
    )


@contextmanager
def loaded(
    whole: nn.Module, numbers: Iterable[int], shards: Sequence[Shard], prefix: str, device: torch.device
) -> Iterator[None]:
    """Inside the block these layers of a model on the meta device hold their weights, each a copy."""
    layers = [(number, decoder_layers(whole)[number]) for number in sorted(numbers)]
    where = {name: shard.path for shard in shards for name in shard.tensors}
    for number, layer in layers:
        tensors = {}
        for name in layer.state_dict():
            stored = f"{prefix}{number}.{name}"
            with safe_open(where[stored], "pt") as file:
                tensors[name] = file.get_tensor(stored).to(device, copy=True)
        layer.load_state_dict(tensors, assign=True)
    try:
        yield
    finally:
        for _, layer in layers:
            layer.to("meta")


def save_layer(whole: nn.Module, number: int, prefix: str, path: Path) -> None:
    """Writes a layer's tensors into a file of their own, under the names that the checkpoint has for them."""
    layer = decoder_layers(whole)[number]
    tensors = {f"{prefix}{number}.{name}": tensor.contiguous() for name, tensor in layer.state_dict().items()}
    save_file(tensors, path, {"format": "pt"})
