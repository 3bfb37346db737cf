"""Removing layers from a checkpoint's files against `cp` of the bytes that stay: seconds, memory, ratio.

    python benchmarks/surgery.py --folder DIR --gb 12

Writes a model of Llama-3.1-8B's layers with random weights, in shards, as large as asked, and takes every
fourth layer away with `depthprune prune`; compares each tensor of the result with its source byte for byte.
Then three ways take turns to write the same bytes: the whole command from the shell and back, the writing
alone, and `cp` of the result's weights; each is timed until the bytes are on the disk (`cp`, then `sync` of
its files, as the other two sync theirs). Before each turn the result of the last is deleted and the disk
synced, so that all find the same room; with `--cold` what is read leaves the page cache first. `--folder`
needs three times as many bytes as the model has; what was made there is deleted at the end.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

import numpy as np
from transformers import LlamaConfig

from depthprune.model.shard_writing import pieces_of, write_shards
from depthprune.model.shards import read_shards

SHAPE = {"hidden_size": 4096, "intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128_256}
ROWS, BLOCK = {"q": 4096, "k": 1024, "v": 1024, "o": 4096}, 2**24
SHARD_BYTES = 5 * 10**9


def shapes(layers: int) -> Iterator[tuple[str, list[int]]]:
    """The tensors of an untied Llama, in the order in which they are stored."""
    wide, inner, vocabulary = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["vocab_size"]
    yield "model.embed_tokens.weight", [vocabulary, wide]
    for i in range(layers):
        yield from ((f"model.layers.{i}.{name}.weight", shape) for name, shape in _layer(wide, inner))
    yield "model.norm.weight", [wide]
    yield "lm_head.weight", [vocabulary, wide]


def _layer(wide: int, inner: int) -> Iterator[tuple[str, list[int]]]:
    yield "input_layernorm", [wide]
    for name, rows in ROWS.items():
        yield f"self_attn.{name}_proj", [rows, wide]
    yield "post_attention_layernorm", [wide]
    yield "mlp.gate_proj", [inner, wide]
    yield "mlp.up_proj", [inner, wide]
    yield "mlp.down_proj", [wide, inner]


def write_model(folder: Path, size: int) -> int:
    """Writes the model in shards; returns how many layers `size` bytes have room for."""
    per_layer = sum(
        2 * np.prod(shape) for _, shape in _layer(SHAPE["hidden_size"], SHAPE["intermediate_size"])
    )
    outside = sum(2 * int(np.prod(shape)) for _, shape in shapes(0))
    layers = max(4, (size - outside) // int(per_layer))
    folder.mkdir(parents=True)
    LlamaConfig(
        **SHAPE, num_hidden_layers=layers, architectures=["LlamaForCausalLM"], dtype="bfloat16"
    ).save_pretrained(folder)
    shards: list[list[tuple[str, list[int]]]] = [[]]
    filled = 0
    for name, shape in shapes(layers):
        filled += 2 * int(np.prod(shape))
        if filled > SHARD_BYTES:
            shards.append([])
            filled = 2 * int(np.prod(shape))
        shards[-1].append((name, shape))
    weight_map = {}
    for number, tensors in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= {name: file for name, _ in tensors}
        _write_shard(folder / file, tensors)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return layers


def _write_shard(path: Path, tensors: list[tuple[str, list[int]]]) -> None:
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    numbers = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for start in range(0, end, BLOCK):
            file.write(numbers.bytes(min(BLOCK, end - start)))


def removed(name: str, layers: range) -> bool:
    return any(name.startswith(f"model.layers.{i}.") for i in layers)


def renamed(name: str, layers: range) -> str | None:
    """A tensor's name without the layers, counted by hand."""
    if removed(name, layers):
        return None
    if not name.startswith("model.layers."):
        return name
    number, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"model.layers.{int(number) - sum(i < int(number) for i in layers)}.{rest}"


def places(folder: Path) -> dict[str, tuple[Path, int, int]]:
    """Tensor → (file, first byte, bytes), as the headers say."""
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            found[name] = (path, 8 + length + begin, end - begin)
    return found


def check(source: Path, result: Path, layers: range) -> int:
    """Compares all tensors byte for byte; returns how many."""
    whole, cut = places(source), places(result)
    wanted = {new: place for name, place in whole.items() if (new := renamed(name, layers)) is not None}
    assert wanted.keys() == cut.keys(), "other tensors than wanted"
    for name, place in wanted.items():
        assert place[2] == cut[name][2] and all(map(np.array_equal, _read(*place), _read(*cut[name]))), name
    return len(wanted)


def _read(path: Path, start: int, length: int) -> Iterator[np.ndarray]:
    for offset in range(0, length, BLOCK):
        yield np.fromfile(path, np.uint8, min(BLOCK, length - offset), offset=start + offset)


class Peak:
    """The most that a process and its files have taken: looked at 50 times a second while it runs."""

    def __init__(self) -> None:
        self.anonymous = self.resident = 0

    def watch(self, pid: int, ended: Event) -> None:
        while not ended.wait(0.02):
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                found = {line.partition(":")[0]: line.split()[1] for line in lines if "kB" in line}
                self.anonymous = max(self.anonymous, 1024 * int(found.get("RssAnon", 0)))
                self.resident = max(self.resident, 1024 * int(found.get("VmHWM", 0)))


def prune(source: Path, output: Path, layers: range, peak: Peak) -> None:
    command = [sys.executable, "-m", "depthprune", "prune", f"--model={source}", f"--output={output}"]
    command.append("--remove=" + ",".join(map(str, layers)))
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    ended = Event()
    watching = Thread(target=peak.watch, args=(process.pid, ended))
    watching.start()
    _, said = process.communicate()
    ended.set()
    watching.join()
    assert process.returncode == 0, said.decode()


def write(source: Path, output: Path, layers: range) -> None:
    output.mkdir()
    write_shards(pieces_of(read_shards(source), lambda name: renamed(name, layers)), output)


def copy(result: Path, output: Path) -> None:
    output.mkdir()
    weights = [str(path) for path in result.glob("model*")]
    subprocess.run(["cp", *weights, str(output)], check=True)
    subprocess.run(["sync", *(str(path) for path in output.iterdir())], check=True)


def forget(folder: Path) -> None:
    """Takes a folder's files out of the page cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def take_turns(turns: dict[str, Callable[[Path], None]], place: Path, options: argparse.Namespace) -> None:
    """Prints what each way took, and the ratios; the first turn of each is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    output = place / "output"
    for turn in range(options.turns + 1):
        for name, act in turns.items():
            os.sync()
            if options.cold:
                forget(place / "whole")
                forget(place / "cut")
            start = time.perf_counter()
            act(output)
            taken = time.perf_counter() - start
            shutil.rmtree(output)
            print(f"turn {turn} {name:12}{taken:8.2f} s  load {os.getloadavg()[0]:.1f}", file=sys.stderr)
            if turn:
                seconds[name].append(taken)
    kept = sum(path.stat().st_size for path in (place / "cut").glob("*.safetensors"))
    copied = statistics.median(seconds["cp"])
    print(f"{'':14}{'seconds':>9}{'fastest':>9}{'GB/s':>7}{'x cp':>7}")
    for name, values in seconds.items():
        middle = statistics.median(values)
        speed, ratio = kept / 1e9 / middle, copied / middle
        print(f"{name:14}{middle:9.2f}{min(values):9.2f}{speed:7.2f}{ratio:7.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", required=True, type=Path, help="on the disk to be measured")
    parser.add_argument("--gb", type=float, default=6)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="nothing of the source is in the page cache")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="surgery-", dir=options.folder))
    try:
        depth = write_model(place / "whole", int(options.gb * 1e9))
        layers, peak = range(1, depth, 4), Peak()
        prune(place / "whole", place / "cut", layers, peak)
        tensors = check(place / "whole", place / "cut", layers)
        whole, kept = (
            sum(path.stat().st_size for path in (place / name).glob("*.safetensors")) / 1e9
            for name in ("whole", "cut")
        )
        cache = "cold" if options.cold else "as the last turn left it"
        print(
            f"{depth} layers, {whole:.2f} GB; {len(layers)} go, {kept:.2f} GB stay: {tensors} tensors, equal"
        )
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, page cache {cache}")
        turns = {
            "the command": lambda output: prune(place / "whole", output, layers, peak),
            "its writing": lambda output: write(place / "whole", output, layers),
            "cp": lambda output: copy(place / "cut", output),
        }
        take_turns(turns, place, options)
        anonymous, resident = peak.anonymous / 1e6, peak.resident / 1e6
        print(f"the command's peak: {anonymous:.0f} MB anonymous, {resident:.0f} MB with the files it maps")
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
