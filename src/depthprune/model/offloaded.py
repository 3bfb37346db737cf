"""Decoder layers whose weights are offloaded, to disk or to the CPU's memory: they come when they are called.

accelerate brings the weights of each module at each call, and drops them behind it. What goes through the
layers batch after batch reads each of them once a batch then. Here a whole layer comes, and stays until
another one is called: what goes through layer by layer reads each of them once.
"""

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from accelerate.utils import send_to_device
from accelerate.utils.offload import PrefixedDataset
from torch import Tensor, nn
from transformers import PreTrainedModel

from depthprune.model.anatomy import decoder_layers, layers_path
from depthprune.model.loading import load_config, load_with_report
from depthprune.model.skeleton import skeleton
from depthprune.model.states import mapped_file

DeviceMap = Literal["auto", "disk"]


def load_offloaded(
    path_or_id: str | Path,
    device_map: DeviceMap,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    trust_remote_code: bool = False,
    scratch: Path | None = None,
    **kwargs: Any,
) -> tuple[PreTrainedModel, list[str]]:
    """As `load_with_report`, with weights where they have room.

    Args:
        device_map: `disk` leaves the decoder layers on disk and has the rest on `device`; `auto` fills the
            accelerators, then the CPU's memory, then the disk.
        scratch: where a folder is made for what the files hold otherwise than the model, and for what
            changes of it; it goes with the model. By default the system's own.
    """
    where: Any = device_map
    if device_map == "disk":
        where = disk_map(skeleton(load_config(path_or_id, trust_remote_code), trust_remote_code), device)
    folder = Path(tempfile.mkdtemp(prefix=".offloaded-", dir=scratch))
    try:
        model, unused = load_with_report(
            path_or_id, dtype, device, trust_remote_code, device_map=where, offload_folder=folder, **kwargs
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    hold_whole(model, folder)
    return model, unused


def disk_map(model: PreTrainedModel, device: str | torch.device) -> dict[str, Any]:
    """The `device_map` that leaves the decoder layers on disk and has all else on the device."""
    path = layers_path(model)
    found: dict[str, Any] = {f"{path}.{i}": "disk" for i in range(len(decoder_layers(model)))}
    way = list(accumulate(path.split("."), "{}.{}".format))
    for here in ["", *way[:-1]]:
        module, prefix = model.get_submodule(here), f"{here}." if here else ""
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        beside = {f"{prefix}{name}" for name, _ in [*module.named_children(), *tensors]}
        found |= dict.fromkeys(sorted(beside - {*way}), str(device))
    return found


class Shelf:
    """The offloaded layers of a model, and which of them are at hand."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.at_hand: list[Offloaded] = []
        self.walks: bool | None = None
        """Whether its layers can be called one by one, once that was tried."""
        self.room: int | None = None
        """How many bytes hidden states take in memory at once; None for a share of what is free."""

    def stow(self, tensor: Tensor) -> Tensor:
        """The same on the CPU, mapped from a file: it takes no memory that the system could not have back."""
        found = mapped_file(tensor, self.scratch)
        return found.copy_(tensor.detach())


class Offloaded(ModelHook):
    """Brings the weights of a layer before it computes; they stay until another layer's are wanted.

    Attributes:
        device: where it computes.
        weights_map: a tensor's name in the layer → what it holds, in the dtype that it has in the model.
            `save_pretrained` reads it.
    """

    def __init__(
        self, shelf: Shelf, layer: nn.Module, stored: Mapping[str, Tensor], device: Any, skip_keys: Any
    ) -> None:
        super().__init__()
        self.shelf, self.layer, self.device, self.skip_keys = shelf, layer, device, skip_keys
        self.weights_map = Weights(layer, stored)
        self.pins = 0
        self._brought: dict[str, Tensor] = {}

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """What the layer is called with, on its device."""
        if module is self.layer:  # and no copy of it, which holds weights of its own
            self.bring()
        sent = send_to_device(kwargs, self.device, skip_keys=self.skip_keys)
        return send_to_device(args, self.device), sent

    def __deepcopy__(self, memo: dict) -> "Offloaded":
        return self

    @torch.inference_mode(False)
    def bring(self) -> None:
        """Puts the weights on the device, and drops those of other layers that nothing needs just now."""
        if self in self.shelf.at_hand:
            return
        for other in [other for other in self.shelf.at_hand if not other.pins]:
            other.drop()
        for name in self.weights_map:
            # A copy, since what is read from a file may be mapped, and aligned otherwise.
            _put(self.layer, name, self.weights_map[name].to(self.device, copy=True))
            self._brought[name] = _get(self.layer, name).detach()
        self.shelf.at_hand.append(self)

    @torch.inference_mode(False)
    def drop(self) -> None:
        """Lets go of the weights; those that were replaced since they came are kept in a file."""
        for name, brought in self._brought.items():
            tensor = _get(self.layer, name)
            if tensor.data_ptr() != brought.data_ptr():
                self.weights_map.changed[name] = self.shelf.stow(tensor)
            _put(self.layer, name, torch.empty_like(tensor, device="meta"))
        self._brought.clear()
        self.shelf.at_hand.remove(self)


class Weights(Mapping[str, Tensor]):
    """A layer's weights where they are stored, but for those that changed."""

    def __init__(self, layer: nn.Module, stored: Mapping[str, Tensor]) -> None:
        self.layer, self.stored = layer, stored
        self.changed: dict[str, Tensor] = {}
        # Buffers are nowhere else than on the device.
        self._names = [name for name, tensor in layer.state_dict().items() if tensor.is_meta]

    def __getitem__(self, name: str) -> Tensor:
        tensor = self.changed[name] if name in self.changed else self.stored[name]
        return tensor.to(_get(self.layer, name).dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def hold_whole(model: PreTrainedModel, scratch: Path) -> None:
    """Has the layers that accelerate has offloaded come as a whole when they are called.

    Args:
        scratch: a folder for what changes of them.
    """
    shelf, path = Shelf(scratch), layers_path(model)
    for i, layer in enumerate(decoder_layers(model)):
        like = next((hook for part in layer.modules() if (hook := _offloading(part))), None)
        if like is None:
            continue
        stored: Mapping[str, Tensor] = PrefixedDataset(like.weights_map.dataset, f"{path}.{i}.")
        remove_hook_from_module(layer, recurse=True)
        for part in layer.modules():
            vars(part).pop("forward", None)  # accelerate leaves the bound method there
        for name, tensor in layer.state_dict(keep_vars=True).items():
            if isinstance(tensor, nn.Parameter) and not tensor.is_meta:
                _put(layer, name, torch.empty_like(tensor, device="meta"))
        add_hook_to_module(layer, Offloaded(shelf, layer, stored, like.execution_device, like.skip_keys))


def _offloading(part: nn.Module) -> Any:
    """accelerate's hook that offloads a module's own weights, if it has one."""
    hook = getattr(part, "_hf_hook", None)
    offloads = getattr(hook, "offload", False) and any(True for _ in part.parameters(recurse=False))
    return hook if offloads else None


def shelf_of(model: nn.Module) -> Shelf | None:
    """Where the offloaded layers of a model are; None where all of them are at hand."""
    hooks = (_hook(layer) for layer in decoder_layers(model))
    return next((hook.shelf for hook in hooks if hook is not None), None)


class Values(Mapping[str, Tensor]):
    """A model's `state_dict`, in which offloaded weights are read when they are asked for."""

    def __init__(self, model: nn.Module) -> None:
        self._state = model.state_dict()
        # Asked first, for a model under examination may have no layers to be found.
        placed = any(tensor.is_meta for tensor in self._state.values())
        self.offloaded = {
            f"{layers_path(model)}.{i}.{name}": (hook.weights_map, name)
            for i, layer in enumerate(decoder_layers(model) if placed else ())
            if (hook := _hook(layer)) is not None
            for name in hook.weights_map
        }

    def __getitem__(self, name: str) -> Tensor:
        if self._state[name].is_meta and name in self.offloaded:
            weights, name = self.offloaded[name]
            return weights[name]
        return self._state[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


@contextmanager
def at_hand(*layers: nn.Module) -> Iterator[None]:
    """Inside the block these layers hold their weights, and what replaces a weight is kept.

    Of layers that always do, nothing happens.
    """
    hooks = [hook for layer in layers if (hook := _hook(layer)) is not None]
    for hook in hooks:
        hook.pins += 1
        hook.bring()
    try:
        yield
    finally:
        for hook in hooks:
            hook.pins -= 1


def set_aside(layer: nn.Module, like: nn.Module) -> None:
    """Leaves the weights of a new layer in files, where those of the one that it was made from are."""
    found = _hook(like)
    if found is None or _hook(layer) is not None:
        return
    stored = {name: found.shelf.stow(parameter) for name, parameter in layer.named_parameters()}
    for name, parameter in list(layer.named_parameters()):
        _put(layer, name, torch.empty_like(parameter, device="meta"))
    add_hook_to_module(layer, Offloaded(found.shelf, layer, stored, found.device, found.skip_keys))


def kept_aside(layer: nn.Module, tensors: Iterable[Tensor]) -> list[Tensor]:
    """These tensors; of an offloaded layer copies in files, which take no memory."""
    hook = _hook(layer)
    return list(tensors) if hook is None else [hook.shelf.stow(tensor) for tensor in tensors]


def _hook(layer: nn.Module) -> Offloaded | None:
    hook = getattr(layer, "_hf_hook", None)
    return hook if isinstance(hook, Offloaded) and hook.layer is layer else None


def _get(layer: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    return getattr(layer.get_submodule(path), leaf)


def _put(layer: nn.Module, name: str, tensor: Tensor) -> None:
    """Makes a new parameter of a layer: one that changes its device cannot stay the same object."""
    path, _, leaf = name.rpartition(".")
    module = layer.get_submodule(path)
    setattr(module, leaf, nn.Parameter(tensor, getattr(module, leaf).requires_grad))
