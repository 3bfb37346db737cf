"""What flattening will take, from the model's shapes alone."""

from typing import Any

from torch import nn

from depthprune.model.anatomy import decoder_layers, down_projection, unwrap
from depthprune.model.depth_config import text_config

# Passes of one layer over the samples: to rank a pair; to try one, its solves left out.
RANKING, TRYING = 9, 20
# Candidates of a pair whose loss is measured, each from the pair on: half of the layers and the head.
LOSSES = 7
# Matrices of a fit beside its Gram: it with λ, its inverse, the solution's factors.
MATRICES = 4


def estimate(model: nn.Module, tokens: int, removed: int, tried: int, held_out: float) -> dict[str, Any]:
    """`memory`, bytes beside the model's own, and `passes` of the whole model over the samples.

    Args:
        model: on the meta device.
        tokens: of all calibration samples.
        removed: how many layers go.
        tried: pairs whose loss is measured at each step.
        held_out: the share of the samples that choose.
    """
    layers = decoder_layers(model)
    text = text_config(unwrap(model).config)
    width = text.hidden_size
    down = down_projection(layers[0])
    channels = max(down.parameter.shape) if down else 0
    heads = getattr(text, "head_dim", None) or width // text.num_attention_heads
    attention = 2 * text.num_attention_heads * heads
    # The entry, what enters the pair, the whole model's states there, before and behind it in float32.
    states = tokens * width * 4 * 7
    grams = 8 * (MATRICES * max(attention, channels) ** 2 + attention * width + channels * width)
    copies = 4 * 4 * sum(parameter.numel() for parameter in layers[0].parameters())
    of_one_layer = RANKING * (len(layers) - 1 + 2 * (removed - 1)) + TRYING * tried * removed
    losses = LOSSES * tried * removed * len(layers) / 2 * held_out
    walks = 2 * 2 * len(layers) / 2  # to rank and to try: through what is left and through the whole model
    # The steps once more; what is left fitted again behind them and behind the bare cut.
    again = (RANKING + walks + 2 * (TRYING / 2 + walks)) * removed
    return {
        "memory": int(states + grams + copies),
        "passes": round((of_one_layer + losses + again) / len(layers)),
    }
