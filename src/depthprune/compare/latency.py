"""How fast a model of each depth decodes beside the whole one: measured once a depth, kept in the folder."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from depthprune.bench.bench import random_rows
from depthprune.bench.generating import DECODE, generation
from depthprune.bench.interleave import in_turns, paired_ratios, spread
from depthprune.bench.models import find
from depthprune.bench.rows import WALL, ratio_of
from depthprune.bench.settings import Shape
from depthprune.compare.grid import Cell
from depthprune.compare.results import Result, Results
from depthprune.files import read_object, write_json
from depthprune.model.arithmetic import Arithmetic
from depthprune.model.memory import free_bytes
from depthprune.pipeline.memory import give_back
from depthprune.recipe.recipe import Recipe

log = logging.getLogger("depthprune")

KEPT = "latency.json"
PROMPT, NEW_TOKENS = 32, 8
"""Tokens of the text before, and written. The first of the written is the prefill's."""
SECONDS = 1.0
"""Of one depth, about, and five rounds in any case."""
ROOM = 1.25
"""That has to be free, over what the weights of both models take."""


def known_latency(root: Path, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Number of layers → what `decoding` found for the model and in the arithmetic of these runs."""
    found = read_object(root / KEPT) or {}
    return found.get("layers", {}) if found.get("measured_as") == _measured_as(environment) else {}


def unmeasured(root: Path, results: Results) -> dict[int, Result]:
    """Number of layers whose latency is not known → the first run that has it, the deepest first."""
    known = known_latency(root, results.environment)
    first = {one.layers: one for one in reversed(results.done) if one.layers < one.num_layers}
    return {layers: first[layers] for layers in sorted(first, reverse=True) if str(layers) not in known}


def _measured_as(environment: Mapping[str, Any]) -> dict[str, Any]:
    arithmetic = environment.get("arithmetic", {})
    known = {key: arithmetic.get(key) for key in ("model", "dtype")}
    return {**known, "accelerator": environment.get("accelerator")}


def measure_latency(root: Path, runs: Path, cells: Sequence[Cell], results: Results) -> bool:
    """Measures each depth that is not known yet, on the checkpoint of the first run that has it.

    Whether there is anything new. What cannot be measured is said, and stops nothing.
    """
    known = known_latency(root, results.environment)
    recipes = {cell.name: cell.recipe for cell in cells}
    first = unmeasured(root, results)
    missing = list(first)
    for layers in missing:
        name = first[layers].name
        try:
            found = _decoding(recipes[name], runs / name, Arithmetic(**results.environment["arithmetic"]))
        except Exception as problem:  # a picture less is no reason to end a comparison
            log.debug("latency", exc_info=True)
            log.warning("latency is not measured: %s", problem)
            return layers != missing[0]
        known = {**known, str(layers): found}
        write_json(root / KEPT, {"measured_as": _measured_as(results.environment), "layers": known})
        log.info("latency  %d of %d layers: %.3f", layers, first[layers].num_layers, found["share"])
        give_back()
    return bool(missing)


def _decoding(recipe: Recipe, pruned: Path, arithmetic: Arithmetic) -> dict[str, Any]:
    sides = {"pruned": str(pruned), "whole": str(recipe.model)}
    found = {name: find(path, recipe.trust_remote_code) for name, path in sides.items()}
    width = 4 if arithmetic.dtype == "float32" else found["whole"].dtype.itemsize
    needed = ROOM * width * sum(one.parameters for one in found.values())
    if needed > free_bytes(PartialState().device):
        raise MemoryError(f"the whole and a pruned model need {needed / 1e9:.1f} GB at once")
    length = min(PROMPT, (found["whole"].context or math.inf) - NEW_TOKENS)
    (ids,) = random_rows([Shape(1, int(length))], found["whole"].vocabulary).values()
    return decoding({name: one.load(arithmetic) for name, one in found.items()}, ids)


def decoding(models: Mapping[str, PreTrainedModel], prompt: torch.Tensor) -> dict[str, Any]:
    """The time of a token of `pruned` over that of `whole`, in turns; greedily, with a cache.

    On a CPU of the processor's time, as `bench` has it. `seconds` are the wall clock's.
    """
    works = {name: generation(model, prompt, NEW_TOKENS) for name, model in models.items()}
    rounds = {name: [one[DECODE] for one in found] for name, found in in_turns(works, SECONDS).items()}
    of = ratio_of()
    times = {
        name: [span.wall if of == WALL else span.processor for span in spans]
        for name, spans in rounds.items()
    }
    ratio = spread(paired_ratios(times["pruned"], times["whole"]))
    return {
        "share": ratio["median"],
        "error": ratio["error"],
        "of": of,
        "seconds": {
            name: median(span.wall for span in spans) / (NEW_TOKENS - 1) for name, spans in rounds.items()
        },
    }
