"""float32 against bfloat16 on this CPU, for one model: what each takes, and what rounding changes.

    python benchmarks/arithmetic.py --model ../shared/lab/model --text ../shared/lab/text/wikipedia.jsonl

What `arithmetic: auto` would choose and why; then, in each arithmetic as a run has it, seconds of a forward
pass and of a forward and backward pass (training: autocast over float32 weights), the loss, and the layers
that two metrics would remove. Medians of several passes, which take turns.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from depthprune import score_layers, select_layers
from depthprune.data.calibration import calibration_batches
from depthprune.data.examples import load_examples
from depthprune.model.arithmetic import PRECISIONS, choose_arithmetic
from depthprune.model.loading import load_config, load_model, load_tokenizer

METRICS = ("block-influence", "taylor")


def seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return model(**{**batch, "labels": labels}, use_cache=False).loss


def training_pass(model: torch.nn.Module, batch: dict[str, torch.Tensor], bfloat16: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        loss = loss_of(model, batch)
    loss.backward()
    model.zero_grad()


@torch.inference_mode()
def mean_loss(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]]) -> float:
    return statistics.mean(float(loss_of(model, batch)) for batch in batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--ratio", type=float, default=0.25)
    options = parser.parse_args()
    batches = calibration_batches(
        load_examples(options.text),
        load_tokenizer(options.model),
        samples=options.samples,
        length=128,
        batch_size=8,
        seed=0,
        chat_template=None,
    )
    models = {p: load_model(options.model, getattr(torch, p)) for p in PRECISIONS}
    parameters = sum(parameter.numel() for parameter in models["float32"].parameters())
    chosen = choose_arithmetic(load_config(options.model), parameters)
    print(f"{torch.get_num_threads()} threads; auto: {chosen.dtype}: {chosen.why} {chosen.seconds or ''}\n")

    seconds: dict[str, list[tuple[float, float]]] = {p: [] for p in PRECISIONS}
    for _ in range(options.passes):
        for precision, found in seconds.items():
            forward = seconds_of(lambda p=precision: mean_loss(models[p], batches[:1]))
            rounded = precision == "bfloat16"
            both = seconds_of(lambda r=rounded: training_pass(models["float32"], batches[0], r))
            found.append((forward, both))
    print(f"{'':10}{'forward s':>11}{'training s':>12}{'loss':>9}  removed at {options.ratio:g} by {METRICS}")
    for precision, found in seconds.items():
        forward, both = map(statistics.median, zip(*found, strict=True))
        scores = [score_layers(models[precision], batches, metric) for metric in METRICS]
        removed = [select_layers(score, options.ratio).removed for score in scores]
        loss = mean_loss(models[precision], batches)
        print(f"{precision:10}{forward:11.2f}{both:12.2f}{loss:9.4f}  {removed[0]} {removed[1]}")


if __name__ == "__main__":
    main()
