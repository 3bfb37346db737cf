"""The projection's map, both solvers in one run: closed form against 50 epochs of the paper's Adam.

    python benchmarks/projection.py [--model DIR] [--calibration FILE] [--size 512] [--device cuda]

Both start from the same activations in memory, errors E and contributions Y of 128 × 128 tokens, and minimise
‖E − ΔY‖² + λ‖Δ‖² at λ = 0.01·tr(YYᵀ)/d. The closed form's seconds include its sums, and one more row has all
five λ of the default grid. Adam takes a step for each batch of 8 samples, at the paper's learning rate.

1. On the model: what layers 2, 3, 5 and 6 of the lab model leave in the layer with the largest drift.
2. On random activations of width `--size`, whose directions span three orders of magnitude.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor

from depthprune.data.calibration import calibration_batches
from depthprune.data.examples import load_examples
from depthprune.model.loading import load_model, load_tokenizer
from depthprune.recovery.adam import adam_change
from depthprune.recovery.base import Evidence
from depthprune.recovery.down_projection import DownProjection, probe
from depthprune.recovery.least_squares import Moments, Ridge
from depthprune.recovery.projection import EPOCHS, LEARNING_RATE, Projection
from depthprune.recovery.repair import Repairs
from depthprune.selection import Plan

LAB = Path(__file__).parents[1] / "../shared/lab"
REMOVED = (2, 3, 5, 6)
SAMPLES, LENGTH, BATCH_SIZE = 128, 128, 8
RHO = 0.01
ROUNDS = 3

Pairs = list[tuple[Tensor, Tensor]]


@torch.no_grad()
def model_pairs(model_folder: Path, calibration: Path, device: str) -> tuple[str, Pairs]:
    """E and Y of the layer with the largest drift, from all calibration samples but the held-out one."""
    model, tokenizer = load_model(model_folder, device=device), load_tokenizer(model_folder)
    batches = calibration_batches(load_examples(calibration), tokenizer, SAMPLES, LENGTH, BATCH_SIZE, seed=42)
    plan = Plan(model.config.num_hidden_layers, REMOVED)
    repairs = Repairs(model, plan, Evidence(batches=batches), held_out=1 / SAMPLES)
    drift = dict(zip(plan.kept, repairs.drift_before, strict=True))
    layer = max(plan.kept, key=lambda i: drift[i])
    down = probe(model, layer)
    assert isinstance(down, DownProjection)
    pairs = list(repairs.pairs(down, layer, repairs.fit))
    return f"{model_folder.parent.name}/{model_folder.name}, layer {layer}, d {pairs[0][1].shape[1]}", pairs


def random_pairs(size: int, device: str) -> tuple[str, Pairs]:
    """Y with a spectrum over three orders of magnitude, E a random map of it and as much noise."""
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.logspace(0, -3, size)
    mixing = torch.linalg.qr(torch.randn(size, size, generator=generator)).Q
    change = torch.randn(size, size, generator=generator) / size**0.5
    pairs = []
    for _ in range(SAMPLES // BATCH_SIZE):
        y = (torch.randn(BATCH_SIZE * LENGTH, size, generator=generator) * spectrum) @ mixing
        moved = y @ change.mT
        noise = torch.randn(moved.shape, generator=generator) * moved.std()
        pairs.append(((moved + noise).to(device), y.to(device)))
    return f"random, d {size}", pairs


def seconds(work: Callable[[], object], device: str) -> float:
    """Wall seconds of one call."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def solve(pairs: Pairs, rhos: tuple[float, ...]) -> list[Tensor]:
    """The closed form for each ρ, sums over tokens and all."""
    ridge = Ridge(Moments(pairs))
    return [ridge.toward_identity(rho * ridge.moments.scale) for rho in rhos]


def compare(name: str, pairs: Pairs, device: str) -> None:
    """Prints both solvers' objectives and seconds."""
    moments = Moments(pairs)
    penalty = RHO * moments.scale
    nothing = moments.energy
    solve(pairs, (RHO,))  # libraries load and allocate
    closed = statistics.median(seconds(lambda: solve(pairs, (RHO,)), device) for _ in range(ROUNDS))
    grid = Projection().rho
    all_closed = statistics.median(seconds(lambda: solve(pairs, grid), device) for _ in range(ROUNDS))
    found: list[Tensor] = []
    adam = seconds(lambda: found.append(adam_change(pairs, penalty, EPOCHS, LEARNING_RATE)), device)
    best, reached = (
        moments.objective(change, penalty) / nothing for change in (solve(pairs, (RHO,))[0], found[0])
    )
    print(f"| {name} | closed form | {best:.6f} | {closed:.3f} s | |")
    print(f"| | closed form, {len(grid)} λ | | {all_closed:.3f} s | |")
    print(f"| | Adam, {EPOCHS} epochs | {reached:.6f} | {adam:.2f} s | {adam / closed:.0f}× (at least 5×) |")
    assert best <= reached, "the closed form is the minimum"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, default=LAB / "model", help="a model of more than 7 layers")
    parser.add_argument("--calibration", type=Path, default=LAB / "text/wikipedia.jsonl")
    parser.add_argument("--size", type=int, default=512, help="width of the random activations")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    arguments = parser.parse_args()
    where = torch.cuda.get_device_name() if arguments.device == "cuda" else "CPU"
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}; {where}, "
        f"{torch.get_num_threads()} thread(s); {SAMPLES} samples of {LENGTH} tokens, ρ {RHO}, Adam at "
        f"{LEARNING_RATE}, a step for {BATCH_SIZE} samples\n"
    )
    print("| activations | solver | objective / ‖E‖² | seconds | |\n|---|---|---|---|---|")
    if arguments.model.is_dir():
        compare(*model_pairs(arguments.model, arguments.calibration, arguments.device), arguments.device)
    compare(*random_pairs(arguments.size, arguments.device), arguments.device)


if __name__ == "__main__":
    main()
