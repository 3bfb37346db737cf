"""The residual stream around each layer, and from within one layer to within the next."""

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
    middle: dict[int, Tensor] = {}
    there = [i for i in range(len(decoder_layers(model))) if i not in skipped_layers(model)]
    with ExitStack() as stack:
        for i in there if sides else ():
            layer = decoder_layers(model)[i]
            first = layer.get_submodule(mlp_modules(layer, sides)[0])

            def enter(_: nn.Module, args: tuple, kwargs: dict, i: int = i) -> None:
                middle[i] = layer_input(args, kwargs).clone()

            stack.callback(first.register_forward_pre_hook(enter, with_kwargs=True).remove)
        around = record_layer_io(model, batch)
    for i, (before, after) in enumerate(around):
        yield False, i, before, after
    for i, following in pairwise(there) if sides else ():
        shape = around[i][0].shape  # OPT's are [B·T, d] there
        yield True, i, middle[i].view(shape), middle[following].view(shape)
