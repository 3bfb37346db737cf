"""The paper's figures at an 8B model's shape, on one GPU: each beside its floor.

    python benchmarks/gpu/bench.py --output benchmarks/gpu/results
    python benchmarks/gpu/bench.py --shape tiny --seconds 0.1

A random Llama, so that no weights are needed: nothing of what is measured depends on their values. Every part
is printed and written as soon as it is done; one that does not fit the card is told and left out.

1. The card's own rates: a large matrix product, a large copy. The floors below come from them.
2. IGIA: a LoRA step with the recorder, spooling to disk, against one without, every other step of one run.
3. Gradient norms: frozen weights and batches against a loop that makes the gradients of all layers.
4. Leaving each layer out: resumed behind it, against a whole pass a layer. Block influence, one pass.
5. The whole model, and what 25 % and 40 % of layers less leave: prefill, decoding, a LoRA step.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
import trl
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from depthprune.bench.generating import DECODE, PREFILL, generation
from depthprune.bench.interleave import in_turns
from depthprune.bench.training_step import stepper
from depthprune.importance.block_influence import BlockInfluence
from depthprune.importance.cut_loss import cut_losses
from depthprune.importance.gradient_norm import GradientNorm
from depthprune.importance.igia import Igia
from depthprune.importance.loss import Loss
from depthprune.model.surgery import remove_layers
from depthprune.training import Lora
from depthprune.training.trainer import sft_trainer

sys.path.insert(0, str(Path(__file__).parents[1]))
from gradient_norm import loop_scores
from igia import EveryOtherStep, bare_tokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "llama-8b": {
        "config": {
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "tie_word_embeddings": False,
        },
        "depths": (24, 19),
        "rows": (8, 512),
        "new_tokens": 64,
        "samples": 32,
    },
    "tiny": {
        "config": {
            "vocab_size": 256,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": False,
        },
        "depths": (4, 3),
        "rows": (2, 32),
        "new_tokens": 4,
        "samples": 4,
    },
}
PAPER = {PREFILL: 0.615, DECODE: 0.609, "LoRA step": 0.624}
"""GradPruner's times at 40 % fewer parameters, of the whole model's."""
RECORDED_STEPS = 24


class Bench:
    """One model and what the parts share."""

    def __init__(self, shape: dict[str, Any], device: str, seconds: float) -> None:
        self.shape, self.device, self.seconds = shape, device, seconds
        self.dtype = torch.bfloat16 if device == "cuda" else torch.float32
        torch.manual_seed(0)
        with torch.device(device):
            self.model = LlamaForCausalLM._from_config(LlamaConfig(**shape["config"]), dtype=self.dtype)
        self.model.eval().requires_grad_(False)
        self.rates = {"flops": 0.0, "bytes": 0.0}

    def ids(self, rows: int, length: int) -> torch.Tensor:
        draw = torch.Generator().manual_seed(0)
        return torch.randint(3, self.shape["config"]["vocab_size"], (rows, length), generator=draw)

    def batches(self) -> list[dict[str, torch.Tensor]]:
        """The samples that metrics score on, as the pipeline hands them over."""
        rows, length = self.shape["rows"]
        ids = self.ids(self.shape["samples"], length)
        return [{"input_ids": part, "attention_mask": torch.ones_like(part)} for part in ids.split(rows)]

    def timed(self, work: Callable[[], Any]) -> tuple[float, float, Any]:
        """Seconds of a second call, its peak bytes beyond what lay in memory, and what it returns."""
        work()
        self.wait()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        start = time.perf_counter()
        found = work()
        self.wait()
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() - before if self.device == "cuda" else 0
        return seconds, peak, found

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()


def rates(bench: Bench) -> list[list[str]]:
    """FLOP/s of a product of square matrices, bytes/s of a copy, read and written."""
    side = 8192 if bench.device == "cuda" else 256
    a, b = (torch.randn(side, side, dtype=bench.dtype, device=bench.device) for _ in range(2))
    seconds = statistics.median(bench.timed(lambda: a @ b)[0] for _ in range(10))
    bench.rates["flops"] = 2 * side**3 / seconds
    source = torch.empty(side * side * 8, dtype=bench.dtype, device=bench.device).normal_()
    target = torch.empty_like(source)
    seconds = statistics.median(bench.timed(lambda: target.copy_(source))[0] for _ in range(10))
    bench.rates["bytes"] = 2 * source.nbytes / seconds
    return [
        ["matrix product", f"{bench.rates['flops'] / 1e12:.3g} TFLOP/s", "", ""],
        ["copy", f"{bench.rates['bytes'] / 1e12:.3g} TB/s", "", ""],
    ]


def depths(bench: Bench) -> Iterator[list[str]]:
    """Each depth in turn; layers are removed from the last on, so that the model ends shallower."""
    rows, length = bench.shape["rows"]
    whole: dict[str, float] = {}
    for depth in (len(bench.model.model.layers), *bench.shape["depths"]):
        remove_layers(bench.model, list(range(depth, len(bench.model.model.layers))))
        in_layers = sum(weight.numel() for weight in bench.model.model.layers.parameters())
        head = bench.model.lm_head.weight.numel()
        tokens, weights = rows * length, in_layers + head
        floors = {
            PREFILL: 2 * (tokens * in_layers + rows * head) / bench.rates["flops"],
            DECODE: weights * bench.dtype.itemsize / bench.rates["bytes"] * 2,  # read, not written
            "LoRA step": 2 * 2 * tokens * weights / bench.rates["flops"],  # no weight's own gradient
        }
        seconds, peak = _speeds(bench)
        whole = whole or seconds
        for what, taken in seconds.items():
            ratio = f"{taken / whole[what]:.3f} of the whole"
            close = f"; the paper's {PAPER[what]:.3f}" if depth == bench.shape["depths"][-1] else ""
            floor = f"floor {floors[what] * 1e3:.3g} ms, {taken / floors[what]:.2f}×"
            yield [f"{depth} layers, {what}", f"{taken * 1e3:.4g} ms", ratio + close, floor]
        if bench.device == "cuda":
            yield [f"{depth} layers, LoRA step's peak", f"{peak / 2**30:.1f} GiB", "", ""]


def _speeds(bench: Bench) -> tuple[dict[str, float], int]:
    """Median seconds of prefill, of one token of eight rows, and of a LoRA step; the step's peak bytes."""
    rows, length = bench.shape["rows"]
    found = in_turns(
        {"": generation(bench.model, bench.ids(rows, length), bench.shape["new_tokens"])}, bench.seconds
    )
    medians = {
        section: statistics.median(spans[section].wall for spans in found[""])
        for section in (PREFILL, DECODE)
    }
    medians[DECODE] /= bench.shape["new_tokens"] - 1
    settings = Lora(
        per_device_train_batch_size=rows, gradient_accumulation_steps=1, gradient_checkpointing=False
    )
    with stepper(bench.model, bare_tokenizer(), settings, length) as steps:
        if bench.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        found = in_turns({"": steps.work(bench.ids(rows, length), "LoRA step")}, bench.seconds)
        peak = torch.cuda.max_memory_allocated() if bench.device == "cuda" else 0
    medians["LoRA step"] = statistics.median(spans["LoRA step"].wall for spans in found[""])
    bench.model.requires_grad_(False)
    return medians, peak


def gradient_norms(bench: Bench) -> list[list[str]]:
    """Both sides on the same samples; the loop holds every gradient of a layer's weights at once."""
    batches = bench.batches()
    together = {"input_ids": torch.cat([batch["input_ids"] for batch in batches])}
    fast, little, ours = bench.timed(lambda: GradientNorm()(bench.model, batches))
    slow, much, theirs = bench.timed(lambda: loop_scores(bench.model, together, only_layers=True))
    bench.model.requires_grad_(False)
    difference = float(((ours - theirs).abs() / theirs).max())
    return [
        ["gradient norm, a loop over samples", f"{slow:.2f} s", "1×", _gib(much)],
        ["gradient norm, batched and frozen", f"{fast:.2f} s", f"{slow / fast:.2f}× faster", _gib(little)],
        ["largest relative difference", f"{difference:.0e}", "", ""],
    ]


def igia(bench: Bench) -> list[list[str]]:
    """Steps of eight rows, as the recipe makes them on this card."""
    rows, length = bench.shape["rows"]
    ids = bench.ids(rows * RECORDED_STEPS, length).tolist()
    settings = Igia(steps=RECORDED_STEPS, per_device_train_batch_size=rows, gradient_accumulation_steps=1)
    with tempfile.TemporaryDirectory() as folder:
        recorder = EveryOtherStep(settings, Path(folder))
        dataset = Dataset.from_list([{"input_ids": row} for row in ids])
        trainer = sft_trainer(
            bench.model, bare_tokenizer(), dataset, settings, Path(folder) / "t", 0, [recorder]
        )
        trainer.train()
        spooled = sum(file.stat().st_size for file in Path(folder).rglob("*.safetensors"))
        trainer.accelerator.unwrap_model(trainer.model).unload()
    bench.model.gradient_checkpointing_disable()  # which other parts do not use
    bench.model.requires_grad_(False)
    without, recorded = (statistics.median(recorder.seconds[kind][2:]) for kind in (False, True))
    ratio = f"{recorded / without:.3f}×"
    return [
        ["LoRA step", f"{without * 1e3:.4g} ms", "1×", ""],
        ["LoRA step, recorded and spooled", f"{recorded * 1e3:.4g} ms", ratio, ""],
        ["spool of a recorded step", f"{spooled / (RECORDED_STEPS / 2) / 1e6:.1f} MB", "", ""],
    ]


def without_each_layer(bench: Bench) -> list[list[str]]:
    """The loss without each layer, and block influence, on one batch."""
    batches = bench.batches()[:1]
    depth = len(bench.model.model.layers)

    def naive() -> torch.Tensor:
        sums = [cut_losses(bench.model, batches, (i,)).sum(0) for i in range(depth)]
        return torch.stack([total / tokens for total, tokens in sums])

    fast, _, ours = bench.timed(lambda: Loss()(bench.model, batches))
    slow, _, theirs = bench.timed(naive)
    turned, _, _ = bench.timed(lambda: BlockInfluence()(bench.model, batches))
    one, _, _ = bench.timed(lambda: cut_losses(bench.model, batches))
    order = int((ours.argsort() != theirs.argsort()).sum())
    return [
        ["loss without each layer, a pass each", f"{slow:.2f} s", "1×", ""],
        ["loss without each layer, resumed", f"{fast:.2f} s", f"{slow / fast:.2f}× faster", ""],
        ["places in which the two orders differ", f"{order} of {depth}", "", "random weights"],
        ["block influence", f"{turned:.2f} s", f"{turned / one:.2f}× one pass with its loss", ""],
    ]


PARTS: tuple[Callable[[Bench], Any], ...] = (rates, igia, gradient_norms, without_each_layer, depths)
"""`depths` comes last, since it leaves a shallower model."""


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB beyond the weights" if size else ""


def main() -> None:
    """Runs every part; prints a table, and writes it with date, card and versions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default="llama-8b")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each median at each depth")
    parser.add_argument("--output", type=Path, help="a folder for the results as JSON")
    asked = parser.parse_args()
    card = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU"
    versions = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
    }
    versions["trl"] = trl.__version__
    found: dict[str, Any] = {
        "date": date.today().isoformat(),
        "card": card,
        "versions": versions,
        "shape": asked.shape,
        **SHAPES[asked.shape],
        "rows_of": {},
        "left_out": {},
        "not_run": [part.__name__ for part in PARTS],
    }
    print(
        f"{found['date']}, {card}, {', '.join(f'{name} {version}' for name, version in versions.items())}\n"
    )
    print("| | | | |\n|---|---|---|---|", flush=True)
    bench = Bench(SHAPES[asked.shape], asked.device, asked.seconds)
    start = time.perf_counter()
    for part in PARTS:
        rows = found["rows_of"][part.__name__] = []
        try:
            for row in part(bench):
                rows.append(row)
                print(f"| {' | '.join(row)} |", flush=True)
        except torch.OutOfMemoryError as error:
            found["left_out"][part.__name__] = str(error).splitlines()[0]
            print(f"| {part.__name__}: does not fit | {str(error).splitlines()[0][:80]} | | |", flush=True)
        found["not_run"].remove(part.__name__)
        found["seconds"] = round(time.perf_counter() - start, 1)
        if asked.output:
            asked.output.mkdir(parents=True, exist_ok=True)
            name = "".join(c if c.isalnum() else "-" for c in f"{found['date']} {card} {asked.shape}")
            (asked.output / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
