"""A training step of the model pruned by 40 %, against the dense one and the floor that its FLOPs set.

    python benchmarks/training_step.py --model ../shared/lab/model

Full fine-tuning on SFTTrainer, batches of 8 × 256 random tokens. The two models take turns, a few steps each,
and the medians are compared; peak memory is measured in a process of its own for each model (Linux only, read
from /proc). The floor counts the products with weights: those of the kept layers and the head over those of
all layers and the head. Attention and norms shrink with the layers alone, so a step can fall below it.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    TrainerCallback,
)

from depthprune.model.anatomy import decoder_layers, linear_weights, lm_head
from depthprune.model.surgery import remove_layers
from depthprune.selection import count_from_ratio
from depthprune.training import Full
from depthprune.training.trainer import sft_trainer, untouched

RATIO = 0.4
BATCH, LENGTH = 8, 256
ROUNDS, STEPS = 6, 6
WARM_STEPS = 2


class StepSeconds(TrainerCallback):
    """Keeps the seconds of every step after the first few."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step > WARM_STEPS:
            self.seconds.append(time.perf_counter() - self.started)


def load(path: str, pruned: bool) -> Any:
    """The model in float32, whole or without its last 40 % of layers."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    if pruned:
        layers = len(decoder_layers(model))
        remove_layers(model, range(layers - count_from_ratio(RATIO, layers), layers))
    return model


def products(model: Any) -> int:
    """Multiplications a token, in the linears of the layers and the head."""
    layers = [linear_weights(layer).values() for layer in decoder_layers(model)]
    inside = sum(weight.parameter.numel() for weights in layers for weight in weights)
    return inside + lm_head(model).weight.numel()


def train(model: Any, path: str) -> list[float]:
    """A few steps of full fine-tuning; their seconds."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, model.config.vocab_size, (BATCH * STEPS, LENGTH), generator=generator).tolist()
    settings = Full(per_device_train_batch_size=BATCH, gradient_accumulation_steps=1, num_train_epochs=1)
    timer = StepSeconds()
    with tempfile.TemporaryDirectory() as folder, untouched(model):
        dataset = Dataset.from_list([{"input_ids": row} for row in rows])
        tokenizer = AutoTokenizer.from_pretrained(path)
        trainer = sft_trainer(model, tokenizer, dataset, settings, Path(folder), 0, [timer])
        trainer.args.save_strategy = "no"
        trainer.train()
    return timer.seconds


def resident(key: str) -> int:
    """VmRSS or VmHWM of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(key)).split()[1])


def print_peak(path: str, pruned: bool) -> None:
    """Prints the bytes that loading and training add to the peak; called in a fresh process."""
    # Libraries load code on first use, which is not what is measured: a model of a few kilobytes goes first.
    tiny = {"vocab_size": 64, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1}
    train(LlamaForCausalLM(LlamaConfig(**tiny, num_attention_heads=2, num_key_value_heads=2)), path)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = resident("VmRSS")
    train(load(path, pruned), path)
    print(resident("VmHWM") - before)


def peak_bytes(path: str, which: str) -> int:
    command = [sys.executable, __file__, "--model", path, "--peak", which]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="../shared/lab/model")
    parser.add_argument("--peak", choices=["dense", "pruned"], help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.peak:
        print_peak(asked.model, asked.peak == "pruned")
        return
    peaks = {which: peak_bytes(asked.model, which) for which in ("dense", "pruned")}
    models = {which: load(asked.model, which == "pruned") for which in ("dense", "pruned")}
    seconds: dict[str, list[float]] = {"dense": [], "pruned": []}
    for _ in range(ROUNDS):
        for which, model in models.items():
            seconds[which] += train(model, asked.model)
    print_table(models, {which: statistics.median(times) for which, times in seconds.items()}, peaks)


def print_table(models: dict[str, Any], medians: dict[str, float], peaks: dict[str, int]) -> None:
    floor = products(models["pruned"]) / products(models["dense"])
    ratio = medians["pruned"] / medians["dense"]
    print(
        f"\ntorch {torch.__version__}, transformers {transformers.__version__}, trl {trl.__version__}; "
        f"{torch.get_num_threads()} thread(s); full fine-tuning, float32, {BATCH} × {LENGTH} tokens a step\n"
    )
    print("| model | layers | products a token | seconds a step | peak memory |\n|---|---|---|---|---|")
    for which, model in models.items():
        size, work = peaks[which] / 2**20, products(model) / 1e6
        layers = len(decoder_layers(model))
        print(f"| {which} | {layers} | {work:.2f} M | {medians[which]:.3f} | {size:.0f} MiB |")
    memory = peaks["pruned"] / peaks["dense"]
    print(f"| pruned / dense | | {floor:.3f} | {ratio:.3f} | {memory:.3f} |")
    print(f"\nThe step takes {ratio / floor:.2f}× its floor; at most 1.1× is to hold.")


if __name__ == "__main__":
    main()
