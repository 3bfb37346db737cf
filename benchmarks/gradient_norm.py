"""Gradient norms: one batched backward pass with frozen weights against a loop of per-sample passes.

    python benchmarks/gradient_norm.py
    python benchmarks/gradient_norm.py --device cuda --dtype bfloat16 --layers 32 --hidden 4096 --mlp 14336 \
        --kv-heads 8 --vocab 128256 --samples 128

Both sides score the same random Llama on the same random tokens in one run: in turn for the seconds (the
medians of the rounds count), and each in a process of its own for the peak memory (on Linux read from /proc,
on CUDA from torch). The loop takes one sample at a time and drops the gradients before the next pass; a
second one has the embeddings and the head frozen, too, whose gradients no score needs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from depthprune.importance.gradient_norm import GradientNorm

SIDES = {"loop": "loop", "frozen": "loop, the rest frozen", "batched": "batched"}
BARS = {"cpu": ("at least 1.4×", "at most 1.2×"), "cuda": ("at least 4×", "")}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    for name, default in {
        "layers": 12,
        "hidden": 512,
        "mlp": 1376,
        "heads": 0,
        "kv-heads": 0,
        "vocab": 8192,
        "samples": 16,
        "tokens": 128,
        "rounds": 5,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch-size", type=int, help="samples a pass; by default what fits memory")
    parser.add_argument("--peak", choices=list(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    # Heads of 64 at small sizes, of 128 as Llama has them from 4096 on.
    options.heads = options.heads or options.hidden // (128 if options.hidden >= 4096 else 64)
    options.kv_heads = options.kv_heads or options.heads
    return options


def random_model(options: argparse.Namespace) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        intermediate_size=options.mlp,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        tie_word_embeddings=False,
    )
    with torch.device(options.device):
        return LlamaForCausalLM._from_config(config, dtype=getattr(torch, options.dtype)).eval()


def random_batch(options: argparse.Namespace) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, options.vocab, (options.samples, options.tokens), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def loop_scores(
    model: LlamaForCausalLM, batch: dict[str, torch.Tensor], only_layers: bool = False
) -> torch.Tensor:
    """One forward and backward pass per sample, the norm of each gradient in the layers."""
    model.requires_grad_(not only_layers)
    layers = model.model.layers.requires_grad_(True)
    weights = [list(layer.parameters()) for layer in layers]
    totals = torch.zeros(len(weights), device=model.device)
    for ids in batch["input_ids"].to(model.device):
        logits = model(input_ids=ids[None], use_cache=False).logits[0]
        F.cross_entropy(logits[:-1].float(), ids[1:]).backward()
        norms = [
            torch.stack(torch._foreach_norm([w.grad for w in layer], dtype=torch.float32))
            for layer in weights
        ]
        totals += torch.stack([norm.sum() for norm in norms])
        del logits
        model.zero_grad(set_to_none=True)
    return (totals / len(batch["input_ids"])).cpu()


def scores_of(side: str, model: LlamaForCausalLM, options: argparse.Namespace) -> torch.Tensor:
    batch = random_batch(options)
    if side != "batched":
        return loop_scores(model, batch, only_layers=side == "frozen")
    return GradientNorm(batch_size=options.batch_size)(model, [batch])


def seconds_of(options: argparse.Namespace) -> tuple[dict[str, float], float]:
    """The median seconds of each side, and the largest relative difference of their scores."""
    model = random_model(options)
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    scores = {}
    for turn in range(options.rounds + 1):
        for side, taken in seconds.items():
            start = time.perf_counter()
            scores[side] = scores_of(side, model, options)  # on the CPU: the device has finished
            if turn:  # the first warms up
                taken.append(time.perf_counter() - start)
    difference = float(((scores["batched"] - scores["loop"]).abs() / scores["loop"]).max())
    return {side: statistics.median(taken) for side, taken in seconds.items()}, difference


def resident(key: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def print_peak(side: str, options: argparse.Namespace) -> None:
    """Prints as JSON the peak bytes of one side and what stood before; called in a fresh process."""
    small = argparse.Namespace(**{**vars(options), "layers": 1, "samples": 1, "tokens": 8})
    model = random_model(small)
    scores_of("loop", model, small)  # libraries' own buffers are not what is measured
    scores_of("batched", model, small)
    del model
    model = random_model(options)
    if options.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        scores_of(side, model, options)
        peak = torch.cuda.max_memory_allocated()
    else:
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
        scores_of(side, model, options)
        peak = resident("VmHWM")
    print(json.dumps({"before": before, "peak": peak}))


def peak_of(side: str) -> dict[str, int]:
    command = [sys.executable, __file__, *sys.argv[1:], "--peak", side]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    options = arguments()
    if options.peak:
        print_peak(options.peak, options)
        return
    malloc = os.environ.get("MALLOC_MMAP_MAX_", "not set")
    print(
        f"torch {torch.__version__}, transformers {transformers.__version__}, "
        f"{torch.get_num_threads()} thread(s), MALLOC_MMAP_MAX_ {malloc}; {options.layers} layers, "
        f"d {options.hidden}, MLP {options.mlp}, vocabulary {options.vocab}, "
        f"{options.samples}×{options.tokens} tokens, {options.dtype} on {options.device}\n"
    )
    peaks = {side: peak_of(side) for side in SIDES}
    seconds, difference = seconds_of(options)
    faster, larger = BARS["cuda" if options.device.startswith("cuda") else "cpu"]
    rows = {
        f"seconds, median of {options.rounds}": (seconds, faster),
        "peak memory, MiB": ({side: peak["peak"] / 2**20 for side, peak in peaks.items()}, larger),
        "added by scoring, MiB": (
            {side: (peak["peak"] - peak["before"]) / 2**20 for side, peak in peaks.items()},
            larger,
        ),
    }
    print(f"| | {' | '.join(SIDES.values())} | to hold, against the loop |\n|---|---|---|---|---|")
    for name, (values, bar) in rows.items():
        cells = [f"{value:.2f} ({values['loop'] / value:.2f}×)" for value in values.values()]
        if "MiB" in name:
            cells = [f"{value:.0f} ({value / values['loop']:.2f}×)" for value in values.values()]
        print(f"| {name} | {' | '.join(cells)} | {bar} |")
    print(f"| largest relative difference | | | {difference:.0e} | at most 1e-4 |")


if __name__ == "__main__":
    main()
