"""The residual stream around each layer, and between its attention and its MLP."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise

from torch import Tensor, nn

from depthprune.model.anatomy import decoder_layers
from depthprune.model.hooks import layer_input, record_layer_io
from depthprune.model.skip import skipped_layers
from depthprune.model.sublayers import Sides, mlp_modules


def streams(
    model: nn.Module, batch: Mapping[str, Tensor], sides: Sequence[Sides] = ()
) -> Iterator[tuple[bool, int, Tensor, Tensor]]:
    """One forward pass: whether it is across two layers, i, and the stream before and after, [B, T, d] each.

    Around layer i, and with sides from before its MLP to behind the attention of the next layer that is not
    skipped. Keeps 3·L hidden states.
    """
    found = layer_streams(model, batch, sides)
    there = [i for i in range(len(found)) if i not in skipped_layers(model)]
    for i, (before, _, after) in enumerate(found):
        yield False, i, before, after
    for i, following in pairwise(there) if sides else ():
        yield True, i, found[i][1], found[following][1]


def layer_streams(
    model: nn.Module, batch: Mapping[str, Tensor], sides: Sequence[Sides]
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The stream before each layer, before its MLP and after it; of a skipped layer, and without sides, the
    second is the first."""
    middle: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for i, layer in enumerate(decoder_layers(model)) if sides else ():
            first = layer.get_submodule(mlp_modules(layer, sides)[0])

            def enter(_: nn.Module, args: tuple, kwargs: dict, i: int = i) -> None:
                middle[i] = layer_input(args, kwargs).clone()

            stack.callback(first.register_forward_pre_hook(enter, with_kwargs=True).remove)
        around = record_layer_io(model, batch)
    return [
        # OPT's are [B·T, d] there.
        (before, middle.get(i, before).view(before.shape), after)
        for i, (before, after) in enumerate(around)
    ]
