"""Runs of depthprune in two processes, and what they leave beside that of one."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from runs import model_folder, rows, write_jsonl
from safetensors.torch import load_file

import depthprune.distributed

HERE = Path(__file__).parent
CONFIGS = Path(depthprune.distributed.__file__).parent / "configs"
ROWS = 42
"""Five updates of eight rows, and one of two: of that a process may get no row."""
COMMON = {
    "training.per_device_train_batch_size": 4,
    "training.gradient_accumulation_steps": 2,
    "training.learning_rate": 1e-3,
    "training.num_train_epochs": 2,
}
LORA = {
    **COMMON,
    "training.lora_dropout": 0,  # whose masks are other ones in each process
    "importance.lora_dropout": 0,
    "importance.steps": 6,
}
FULL = {"training.method": "full", **COMMON}


def lab(folder: Path) -> Path:
    """A tiny model and data of its own."""
    model_folder(folder / "model")
    write_jsonl(folder / "train.jsonl", rows(ROWS))
    write_jsonl(folder / "test.jsonl", rows(8, seed=1))
    return folder


def call(folder: Path, recipe: str, output: str, settings: dict[str, Any], *more: str) -> list[str]:
    """The arguments of a run in `folder`."""
    sources = {"model": "model", "train": "train.jsonl", "eval": "test.jsonl", "output": output}
    options = [word for name, path in sources.items() for word in (f"--{name}", str(folder / path))]
    return ["run", recipe, *options, *(f"{key}={value}" for key, value in settings.items()), *more]


def alone(arguments: list[str]) -> subprocess.CompletedProcess:
    """One process."""
    return _ended([sys.executable, "-m", "depthprune", *arguments], {})


def together(arguments: list[str], processes: int = 2, **environment: str) -> subprocess.CompletedProcess:
    """Several processes of torchrun, under DDP."""
    return _ended([*torchrun(processes), "-m", "depthprune", *arguments], environment)


def in_shards(arguments: list[str], witness: Path) -> subprocess.CompletedProcess:
    """Two processes under FSDP2, by the config that comes with depthprune."""
    return _ended(*sharding(arguments, witness))


def under_deepspeed(arguments: list[str]) -> subprocess.CompletedProcess:
    """Two processes of accelerate's launcher under ZeRO-2, by the config that comes with depthprune."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
        config.write((CONFIGS / "deepspeed.yaml").read_text().replace("use_cpu: false", "use_cpu: true"))
        config.flush()
        launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config.name]
        return _ended([*launcher, "-m", "depthprune", *arguments], {})


def sharding(arguments: list[str], witness: Path) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of that."""
    environment = {**launch_environment(CONFIGS / "fsdp2.yaml"), "DEPTHPRUNE_SHARDED": str(witness)}
    return [*torchrun(2), str(HERE / "as_fsdp2.py"), *arguments], environment


def killed(command: list[str], environment: dict[str, str], rank: int, when: Callable[[], bool]) -> str:
    """Kills one process of a launcher's once `when` holds; the launcher's stderr, which ends the others."""
    launcher = subprocess.Popen(command, env=_own(environment), stderr=subprocess.PIPE, text=True)
    while launcher.poll() is None and not when():
        time.sleep(0.02)
    for child in psutil.Process(launcher.pid).children(recursive=True):
        if child.environ().get("RANK") == str(rank):
            child.kill()
    _, said = launcher.communicate(timeout=300)
    assert launcher.returncode, said
    return said


def torchrun(processes: int) -> list[str]:
    """The launcher; --standalone takes a free port."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc_per_node", str(processes)]


def launch_environment(config: Path) -> dict[str, str]:
    """What `accelerate launch` tells its processes of a config."""
    call = ["--config_file", str(config), "-m", "depthprune"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(call))
    told = prepare_multi_gpu_env(arguments)
    return {name: value for name, value in told.items() if name.startswith(("ACCELERATE_", "FSDP_"))}


def _ended(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, env=_own(environment), capture_output=True, text=True, timeout=900)


def _own(environment: dict[str, str]) -> dict[str, str]:
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **quiet, **environment}


def read(run: Path, name: str) -> Any:
    return json.loads((run / "depthprune" / name).read_text())


def score_difference(one: Path, other: Path) -> float:
    """The largest, relative to the layer's score."""
    first, second = (torch.tensor(read(run, "scores.json")["scores"]).double() for run in (one, other))
    return float(((first - second).abs() / first.abs()).max())


def weight_difference(one: Path, other: Path) -> float:
    """The largest of any weight, relative to the largest of its tensor."""
    first, second = (load_file(run / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max() / first[name].abs().max()) for name in first)


def tokens_seen(run: Path) -> list[int]:
    lines = (run / "depthprune" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["num_input_tokens_seen"] for line in lines]
