"""The rows of the result: one a shape and section."""

from typing import Any

import torch

from depthprune.bench.clock import Span
from depthprune.bench.counting import Counted
from depthprune.bench.generating import DECODE
from depthprune.bench.interleave import Rounds, paired_ratios, spread
from depthprune.bench.settings import Shape

WALL, PROCESSOR = "wall time", "processor time"


def ratio_of() -> str:
    """The time that ratios are of: the processor's where there is no accelerator."""
    return WALL if torch.accelerator.is_available() else PROCESSOR


def rows_of(
    shape: Shape, new_tokens: int, rounds: Rounds, counted: dict[str, dict[str, Counted]]
) -> list[dict[str, Any]]:
    """A row for each section that the works have in common."""
    return [_row(shape, section, new_tokens, rounds, counted) for section in counted["model"]]


def _row(
    shape: Shape, section: str, new_tokens: int, rounds: Rounds, counted: dict[str, dict[str, Counted]]
) -> dict[str, Any]:
    tokens = shape.batch * ((new_tokens - 1) if section == DECODE else shape.length)
    spans = {name: [found[section] for found in runs] for name, runs in rounds.items()}
    row: dict[str, Any] = {"shape": list(shape), "what": section, "tokens": tokens}
    for name, found in spans.items():
        row[name] = _side(found, tokens, counted[name][section])
    if "against" in spans:
        row |= _ratios(spans["model"], spans["against"])
        one, other = counted["model"][section], counted["against"][section]
        row["ideal"] = {"flops": one.flops / other.flops, "bytes": one.bytes / other.bytes}
        row["peak_ratio"] = one.peak_bytes / other.peak_bytes
    return row


def _side(spans: list[Span], tokens: int, counted: Counted) -> dict[str, Any]:
    seconds = spread([span.wall for span in spans])
    return {
        "seconds": seconds,
        "processor_seconds": spread([span.processor for span in spans]),
        "tokens_per_second": tokens / seconds["median"],
        "flops": counted.flops,
        "bytes_moved": counted.bytes,
        "peak_bytes": counted.peak_bytes,
    }


def _ratios(model: list[Span], against: list[Span]) -> dict[str, Any]:
    """Of the model's times to the other's: below 1 the model is faster."""
    return {
        "ratio": {
            WALL: spread(paired_ratios([s.wall for s in model], [s.wall for s in against])),
            PROCESSOR: spread(paired_ratios([s.processor for s in model], [s.processor for s in against])),
        }
    }
