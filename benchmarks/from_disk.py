"""Scoring with one decoder layer in memory against the whole model there: anonymous memory, seconds, scores.

    python benchmarks/from_disk.py --folder DIR --layers 6

Writes a model of Llama-3.1-8B's layers with random bfloat16 weights and a small vocabulary, and scores it in
float32 in two processes: loaded whole, and with `device_map=disk`. Each takes block influence, the losses
without each layer and the loss of a cut; with `--gradients` the gradient norms. The peak of anonymous memory
(RssAnon: what the system cannot have back but by swapping) is read meanwhile, less what the libraries take.
What was made in DIR is deleted.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from depthprune.importance import score_layers
from depthprune.importance.cut_loss import cut_losses
from depthprune.model.loading import load_model
from depthprune.model.offloaded import load_offloaded

SIDES = ("memory", "disk")
PARTS = {"a layer": "layer", "embeddings and head": "rest", "hidden states": "states"}
SHAPE = {"hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 8192}


def write_model(folder: Path, layers: int) -> None:
    """A random model in bfloat16."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(LlamaConfig(**SHAPE, num_hidden_layers=layers)).save_pretrained(folder)


def anonymous() -> int:
    """Bytes of anonymous memory of this process."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


@contextmanager
def peak() -> Iterator[dict[str, float]]:
    """Fills in `bytes`, the most that came to what there is now, and `seconds`."""
    before, over, found = anonymous(), Event(), {"bytes": 0.0}

    def watch() -> None:
        while not over.wait(0.02):
            found["bytes"] = max(found["bytes"], anonymous() - before)

    watcher = Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    yield found
    found["seconds"] = time.perf_counter() - start
    over.set()
    watcher.join()


def score(folder: Path, side: str, samples: int, length: int, gradients: bool) -> dict[str, Any]:
    """What one process finds."""
    ids = torch.randint(0, SHAPE["vocab_size"], (samples, length), generator=torch.Generator().manual_seed(0))
    batches = [
        {"input_ids": part, "attention_mask": torch.ones_like(part)}
        for part in ids.split(max(1, samples // 4))
    ]
    with peak() as cost:
        if side == "memory":
            model = load_model(folder, torch.float32)
        else:
            model, _ = load_offloaded(folder, "disk", torch.float32, scratch=folder)
        metrics = ["gradient-norm"] if gradients else ["block-influence", "loss"]
        found = [score_layers(model, batches, metric) for metric in metrics]
        if not gradients:
            found.append(cut_losses(model, batches, [1]).flatten())
    sizes = {name: 4 * parameter.numel() for name, parameter in model.named_parameters()}
    layer = sum(size for name, size in sizes.items() if ".layers.0." in name)
    rest = sum(size for name, size in sizes.items() if ".layers." not in name)
    kept = model.config.num_hidden_layers + 1 if gradients else 1  # what enters each layer
    states = 4 * SHAPE["hidden_size"] * samples * length * kept
    return {**cost, "found": torch.cat(found).tolist(), "layer": layer, "rest": rest, "states": states}


def main() -> None:
    """Both sides, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--gradients", action="store_true")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        scored = score(options.folder, options.side, options.samples, options.length, options.gradients)
        print(json.dumps(scored))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write_model(Path(folder), options.layers)
        sides = {side: _in_a_process(folder, side, options) for side in SIDES}
    for side, one in sides.items():
        print(f"{side:7} {one['bytes'] / 1e9:6.2f} GB anonymous  {one['seconds']:7.1f} s")
    memory, disk = (sides[side] for side in SIDES)
    layers = (disk["bytes"] - disk["rest"] - disk["states"]) / disk["layer"]
    sizes = " GB, ".join(f"{part} {disk[key] / 1e9:.2f}" for part, key in PARTS.items())
    print(f"{sizes} GB")
    times = disk["seconds"] / memory["seconds"]
    print(f"from disk: {layers:.2f} layers beside embeddings, head and states; {times:.2f} x the time")
    scores, expected = torch.tensor(disk["found"]), torch.tensor(memory["found"])
    print(f"scores differ by {float(((scores - expected) / expected).abs().max()):.1e}, relative")


def _in_a_process(folder: str, side: str, options: argparse.Namespace) -> dict[str, Any]:
    call = [sys.executable, __file__, "--folder", folder, "--side", side]
    call += ["--samples", str(options.samples), "--length", str(options.length)]
    call += ["--gradients"] if options.gradients else []
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
