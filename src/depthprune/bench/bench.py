"""Prefill, decoding and training steps of a model, in turns with another, for several shapes."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel

from depthprune.bench.clock import Work
from depthprune.bench.counting import Counter, held_bytes
from depthprune.bench.generating import generation
from depthprune.bench.interleave import in_turns
from depthprune.bench.models import Candidate, common_arithmetic, described, find
from depthprune.bench.rows import ratio_of, rows_of
from depthprune.bench.settings import BenchSettings, Shape, fitting_shapes
from depthprune.bench.training_step import BYTES_A_WEIGHT, stepper
from depthprune.cost import progress
from depthprune.errors import UserError
from depthprune.model.arithmetic import Arithmetic
from depthprune.model.casting import cast_weights
from depthprune.model.loading import explained, load_tokenizer
from depthprune.model.memory import free_bytes
from depthprune.report.environment import environment
from depthprune.training import Full, Lora
from depthprune.training.base import training_dtype

log = logging.getLogger("depthprune")

Models = dict[str, PreTrainedModel]
TRAININGS = {"LoRA step": Lora, "full step": Full}


def bench(
    model: str, against: str | None, settings: BenchSettings, trust_remote_code: bool = False
) -> dict[str, Any]:
    """Speed and memory of a model, and the ratios to those of another one.

    Returns a dictionary as docs/bench.md has it. Raises UserError for models that cannot be loaded, and
    shapes that do not fit their context; a training step that cannot be made is left out, with the reason.
    """
    paths = {"model": model} | ({"against": against} if against else {})
    found = {name: find(path, trust_remote_code) for name, path in paths.items()}
    contexts = [candidate.context for candidate in found.values() if candidate.context is not None]
    shapes = fitting_shapes(settings.shapes, settings.new_tokens, min(contexts, default=None))
    arithmetic = common_arithmetic(list(found.values()))
    models = {name: candidate.load(arithmetic) for name, candidate in found.items()}
    result: dict[str, Any] = {
        **{name: described(found[name], models[name]) for name in models},
        "environment": environment(),
        "arithmetic": arithmetic.to_json(),
        "ratio_of": ratio_of(),
        "peak_of": "allocator" if torch.cuda.is_available() else "tensors",
        "new_tokens": settings.new_tokens,
    }
    start = time.perf_counter()
    return (
        result
        | _measure(models, found, arithmetic, shapes, settings)
        | {"seconds": round(time.perf_counter() - start, 1)}
    )


def _measure(
    models: Models,
    found: Mapping[str, Candidate],
    arithmetic: Arithmetic,
    shapes: list[Shape],
    settings: BenchSettings,
) -> dict[str, Any]:
    """All rows, and what was left out; the models are trained at the end."""
    prompts = random_rows(shapes, min(candidate.vocabulary for candidate in found.values()))
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    with progress(len(shapes) * (1 + len(TRAININGS)), "bench") as advance:
        measure = _Budget(settings.seconds, len(shapes) * (1 + len(TRAININGS)), advance)
        held = {name: held_bytes((*model.parameters(), *model.buffers())) for name, model in models.items()}
        for shape, ids in prompts.items():
            works = {name: generation(model, ids, settings.new_tokens) for name, model in models.items()}
            with explained(f"--shapes {shape.batch}x{shape.length}: generation fails"):
                rows += rows_of(shape, settings.new_tokens, *measure(works, held))
        for what in TRAININGS:
            try:
                with explained("it fails"), _steppers(what, models, found, arithmetic, shapes) as steppers:
                    held = {name: stepper.held_bytes() for name, stepper in steppers.items()}
                    for shape, ids in prompts.items():
                        works = {name: stepper.work(ids, what) for name, stepper in steppers.items()}
                        rows += rows_of(shape, settings.new_tokens, *measure(works, held))
            except UserError as reason:  # no room, no tokenizer, quantised weights: the rest stands
                left_out.append({"what": what, "why": str(reason)})
    return {"rows": sorted(rows, key=lambda row: shapes.index(Shape(*row["shape"]))), "left_out": left_out}


class _Budget:
    """Measures work after work, each with an equal share of the seconds that are left."""

    def __init__(self, seconds: float, works: int, advance: Callable[[float], None]) -> None:
        self.end = time.perf_counter() + seconds
        self.left = works
        self.advance = advance

    def __call__(self, works: Mapping[str, Work], held: Mapping[str, int]) -> tuple[Any, Any]:
        """The rounds of the works, and what each counts."""
        share, start = max(0.0, self.end - time.perf_counter()) / max(1, self.left), time.perf_counter()
        counters = {name: Counter(held[name]) for name in works}
        for name, work in works.items():
            work(counters[name])
        rounds = in_turns(works, share - (time.perf_counter() - start))
        self.left -= 1
        self.advance(1)
        return rounds, {name: counter.found for name, counter in counters.items()}


@contextmanager
def _steppers(
    what: str,
    models: Models,
    found: Mapping[str, Candidate],
    arithmetic: Arithmetic,
    shapes: list[Shape],
) -> Iterator[dict[str, Any]]:
    """The models' training, all side by side; raises UserError where one cannot be trained so."""
    longest = max(shape.length for shape in shapes)
    settings = TRAININGS[what](
        per_device_train_batch_size=max(shape.batch for shape in shapes), gradient_accumulation_steps=1
    )
    if arithmetic.dtype is not None:
        settings = settings.model_copy(update={"bf16": arithmetic.autocasts})
    _check_trainable(what, models, found)
    with ExitStack() as stack:
        steppers = {}
        for name, model in models.items():
            tokenizer = load_tokenizer(found[name].path, found[name].trust_remote_code)
            cast_weights(model, training_dtype(settings, found[name].dtype))
            settings.choose_trained(model)
            steppers[name] = stack.enter_context(stepper(model, tokenizer, settings, longest))
        yield steppers


def _check_trainable(what: str, models: Models, found: Mapping[str, Candidate]) -> None:
    for candidate in found.values():
        if candidate.quantised:
            raise UserError(f"{candidate.path} is quantised")
    if what == "full step":
        needed = sum(BYTES_A_WEIGHT * candidate.parameters for candidate in found.values())
        held = sum(held_bytes(model.parameters()) for model in models.values())
        free = free_bytes(next(iter(models.values())).device)
        if needed - held > free:
            raise UserError(f"needs {(needed - held) / 1e9:.1f} GB more, and {free / 1e9:.1f} GB are free")


def random_rows(shapes: list[Shape], vocabulary: int) -> dict[Shape, torch.Tensor]:
    """Seeded token ids [B, T] of each shape, the same for every model."""
    draw = torch.Generator().manual_seed(0)
    return {shape: torch.randint(0, vocabulary, tuple(shape), generator=draw) for shape in shapes}
