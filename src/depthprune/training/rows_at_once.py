"""How many rows a training takes through the model at once: as many as their activations have room for.

The rows of an update, and so the weights, are the same: the Trainer divides the sum of the losses by the
tokens of the whole update, however many passes it is made of. Dropout draws other masks.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from depthprune.distributed.processes import first_does
from depthprune.model.anatomy import decoder, decoder_layers, linear_weights, unwrap

log = logging.getLogger("depthprune")

ROOM = 3 * 2**30
"""Bytes for what a forward pass keeps for the backward one, on a CPU; of an accelerator half its memory."""
SHORT = 8
"""Tokens of the shortest rows that are tried, two at a time, of which one is half padding."""
NEVER_MORE = 64
"""Times the inputs and outputs of all linears, in bytes: a pass that has room for that is not measured."""


def fit_rows(trainer: Any, longest: int, checkpointing: bool | None) -> dict[str, Any]:
    """Lowers a Trainer's rows at once, and raises its passes for an update by as much, where memory is short.

    Where not even one row fits, activations are computed anew in the backward pass, unless the user's word,
    `checkpointing`, is against it.

    Args:
        longest: tokens of the longest row.
    """
    arguments, model = trainer.args, trainer.model
    wanted = arguments.per_device_train_batch_size
    room = first_does(lambda: _room(trainer.accelerator.device))
    anew = bool(arguments.gradient_checkpointing)
    found = {"rows_at_once": wanted, "gradient_checkpointing": anew}
    if wanted * longest * NEVER_MORE * _widths(model) < room:
        return found
    kept = first_does(lambda: kept_bytes(model, longest, bool(arguments.bf16)))
    embedding: Any = unwrap(model).get_input_embeddings()
    layers, hidden = len(decoder_layers(model)), embedding.weight.shape[1]
    lean = kept / layers + 4 * layers * hidden * longest
    rows, anew = choose_rows(
        wanted, lean if anew else kept, lean if checkpointing is None else None, room, anew
    )
    if anew and not arguments.gradient_checkpointing:
        unwrap(model).gradient_checkpointing_enable({"use_reentrant": False})
    if (rows, anew) != (wanted, found["gradient_checkpointing"]):
        arguments.per_device_train_batch_size = trainer._train_batch_size = rows
        arguments.gradient_accumulation_steps *= wanted // rows
        log.info(
            "training takes %d of %d rows at once%s: one of %d tokens needs %.1f GB",
            rows,
            wanted,
            ", and computes activations anew" if anew else "",
            longest,
            kept / 1e9,
        )
    return {"rows_at_once": rows, "gradient_checkpointing": anew}


def choose_rows(
    wanted: int, row: float, lean: float | None, room: float, anew: bool = False
) -> tuple[int, bool]:
    """How many rows fit, a divisor of `wanted` and at least 1, and whether activations are computed anew.

    Args:
        row: bytes of one row; `lean`: with activations computed anew, None where that is not to be.
    """
    if row > room and lean is not None and not anew:
        row, anew = lean, True
    fitting = [rows for rows in range(1, wanted + 1) if wanted % rows == 0 and rows * row <= room]
    return max(fitting, default=1), anew


@torch.enable_grad()
def kept_bytes(model: nn.Module, length: int, bf16: bool = False) -> float:
    """Bytes that a forward pass over a row of `length` tokens keeps for the backward pass, without the head.

    Counted on short rows: linear in the tokens, and quadratic where attention keeps its scores or masks.
    What does not grow with them is left out: under bfloat16 autocast, `bf16`, a copy of each weight.
    """
    places = (SHORT, 2 * SHORT, 4 * SHORT)
    one, two, four = (_counted(model, tokens, bf16) / 2 for tokens in places)
    first, second = (two - one) / SHORT, (four - two) / (2 * SHORT)
    curve = max(0.0, (second - first) / (3 * SHORT))
    # Newton's form through the last two places, less its value for no token at all.
    return length * (second + curve * (length - places[1] - places[2]))


def _counted(model: nn.Module, length: int, bf16: bool) -> int:
    ids = torch.zeros((2, length), dtype=torch.long, device=unwrap(model).device)
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor  # held, or its place would be given to the next one
        return tensor

    rounded = torch.autocast(ids.device.type, torch.bfloat16, enabled=bf16)
    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with _as_trained(model), rounded, hooks:
        output = decoder(model)(input_ids=ids, attention_mask=mask, use_cache=False)
    del output
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@contextmanager
def _as_trained(model: nn.Module) -> Iterator[None]:
    """In training mode; mode and random state are as before afterwards."""
    mode = model.training
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        model.train()
        try:
            yield
        finally:
            model.train(mode)


def _widths(model: nn.Module) -> int:
    return sum(
        sum(weight.parameter.shape[-2:])
        for layer in decoder_layers(model)
        for weight in linear_weights(layer).values()
    )


def _room(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2
    return ROOM
