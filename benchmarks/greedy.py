"""SLEB's greedy search with kept layer inputs against a pass for each candidate; block influence two ways.

    python benchmarks/greedy.py --model ../shared/lab/model --calibration ../shared/lab/text/wikipedia.jsonl

1. The search: which layers go one after the other, each time the one without which the loss is lowest. The
   naive search runs the model once for each candidate, as SLEB's released code does. Both sides take turns,
   round by round; every layer that is still there is a candidate; hooks count the layers that compute.
2. Block influence: 1 − cos of each token before and after a layer, against the (B·S)² matrix of all pairs of
   tokens of a batch, of which only the diagonal is read.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from depthprune.data.calibration import calibration_batches
from depthprune.data.examples import load_examples
from depthprune.importance.block_influence import BlockInfluence
from depthprune.importance.loss import Loss
from depthprune.model.anatomy import decoder_layers
from depthprune.model.hooks import record_layer_io
from depthprune.model.loading import load_model, load_tokenizer
from depthprune.model.skip import Forms, skipped, skipped_layers

Batches = list[dict[str, Tensor]]
SEED = 42
ROUNDS = 3


class LayerCalls:
    """Counts the decoder layers that compute something, by the calls of each one's first submodule."""

    def __init__(self, model: nn.Module) -> None:
        self.count = 0
        for layer in decoder_layers(model):
            next(layer.children()).register_forward_hook(self.add)

    def add(self, *_: object) -> None:
        self.count += 1


class Clock:
    """Seconds on the wall and of the processor, which other work on the machine disturbs less."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


class NaiveLoss:
    """The loss without each layer, by one pass of the whole model and its head for each."""

    def __init__(self) -> None:
        self.forms: Forms = {}

    @torch.inference_mode()
    def __call__(self, model: nn.Module, batches: Batches) -> Tensor:
        gone = set(skipped_layers(model))
        losses = torch.zeros(len(decoder_layers(model)), dtype=torch.float64)
        tokens = sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)
        for i in range(len(losses)):
            if i in gone:
                continue
            with skipped(model, [i], self.forms):
                for batch in batches:
                    inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
                    logits = model(**inputs, use_cache=False).logits[:, :-1].float()
                    targets = batch["labels"][:, 1:].flatten()
                    losses[i] += F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum")
        return (losses / tokens).float()


@torch.inference_mode()
def matrix_block_influence(model: nn.Module, batches: Batches) -> Tensor:
    """1 − the diagonal of the cosines of all pairs of tokens of a batch, [B·S, B·S]."""
    turned = torch.zeros(len(decoder_layers(model)), dtype=torch.float64)
    tokens = 0
    for batch in batches:
        real = batch["attention_mask"].bool()
        for i, (before, after) in enumerate(record_layer_io(model, batch)):
            cosines = F.normalize(before[real].float(), dim=-1) @ F.normalize(after[real].float(), dim=-1).T
            turned[i] += (1 - cosines.diagonal()).sum()
        tokens += int(real.sum())
    return (turned / tokens).float()


def search(model: nn.Module, batches: Batches, count: int) -> list[str]:
    """Both searches in turn, a round each."""
    calls, forms = LayerCalls(model), Forms()
    metrics: dict[str, Callable] = {"naive": NaiveLoss(), "kept": Loss()}
    removed: dict[str, list[int]] = {side: [] for side in metrics}
    passes, clocks = dict.fromkeys(metrics, 0), {side: Clock() for side in metrics}
    for number in range(count):
        # The sides change places each round, so that neither always finds a warm machine.
        for side in sorted(metrics, reverse=bool(number % 2)):
            before = calls.count
            with clocks[side].running(), skipped(model, removed[side], forms):
                scores = metrics[side](model, batches)
            passes[side] += calls.count - before
            still_there = [i for i in range(len(scores)) if i not in removed[side]]
            removed[side].append(min(still_there, key=lambda i: (scores[i], -i)))
    return [
        row("search, a pass for each candidate", passes["naive"], clocks["naive"], str(removed["naive"])),
        row("search, layer inputs kept", passes["kept"], clocks["kept"], str(removed["kept"])),
        ratio(
            passes["naive"] / passes["kept"], clocks["naive"], clocks["kept"], "at least 1.7×, 1.5×, alike"
        ),
    ]


def block_influence(model: nn.Module, batches: Batches) -> list[str]:
    """Block influence both ways in turn."""
    ways = {"matrix": matrix_block_influence, "tokens": BlockInfluence()}
    clocks, scores = {way: Clock() for way in ways}, {}
    for _ in range(ROUNDS):
        for way, metric in ways.items():
            with clocks[way].running():
                scores[way] = metric(model, batches)
    tokens = int(batches[0]["attention_mask"].sum())
    size = 4 * tokens**2 / 2**20
    apart = float((scores["matrix"] - scores["tokens"]).abs().max())
    passes = ROUNDS * len(batches) * len(decoder_layers(model))
    return [
        row(f"block influence, all pairs of {tokens} tokens ({size:.0f} MiB)", passes, clocks["matrix"], ""),
        row("block influence, token by token", passes, clocks["tokens"], f"scores within {apart:.0e}"),
        ratio(1, clocks["matrix"], clocks["tokens"], ""),
    ]


def row(name: str, passes: int, clock: Clock, note: str) -> str:
    return f"| {name} | {passes} | {clock.wall:.1f} s | {clock.cpu:.1f} s | {note} |"


def ratio(passes: float, slow: Clock, fast: Clock, note: str) -> str:
    return f"| ratio | {passes:.2f}× | {slow.wall / fast.wall:.2f}× | {slow.cpu / fast.cpu:.2f}× | {note} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="../shared/lab/model")
    parser.add_argument("--calibration", default="../shared/lab/text/wikipedia.jsonl")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--remove", type=int, default=4)
    asked = parser.parse_args()
    model, tokenizer = load_model(asked.model), load_tokenizer(asked.model)
    batches = calibration_batches(
        load_examples(asked.calibration), tokenizer, asked.samples, asked.length, seed=SEED
    )
    print(
        f"\ntorch {torch.__version__}, transformers {transformers.__version__}; {torch.get_num_threads()} "
        f"thread(s), MALLOC_MMAP_MAX_ {os.environ.get('MALLOC_MMAP_MAX_', 'not set')}; {model.dtype}, "
        f"{asked.samples} × {asked.length} tokens, {asked.remove} of {len(decoder_layers(model))} layers\n"
    )
    print("| | layer passes | wall | processor | |\n|---|---|---|---|---|")
    for line in (*search(model, batches, asked.remove), *block_influence(model, batches)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
