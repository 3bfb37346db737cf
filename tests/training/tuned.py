"""A tiny checkpoint, its training rows, and training that is killed on the way."""

from pathlib import Path
from typing import Any

import torch
from runs import rows
from tiny import tiny_model
from tiny_tokenizer import tiny_tokenizer
from transformers import TrainerCallback

from depthprune.data.examples import Examples
from depthprune.data.tokens import encode
from depthprune.training import FineTuning, Start
from depthprune.training.trainer import fine_tune

TOKENIZER = tiny_tokenizer()
SHORT: dict[str, Any] = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-2,
    "warmup_steps": 0,
    "logging_steps": 1,
    "save_steps": 2,
}


def examples(count: int = 32) -> Examples:
    import datasets

    kept = [{name: row[name] for name in ("prompt", "completion")} for row in rows(count)]
    return Examples("train", "train.jsonl", "prompt-completion", datasets.Dataset.from_list(kept))


def encoded(count: int = 32) -> Any:
    return encode(examples(count), TOKENIZER, 64)


def checkpoint(folder: Path, family: str = "llama", layers: int = 4, **changes: Any) -> Start:
    """A saved random model, as a training begins with it."""
    model = tiny_model(family, layers, vocab_size=len(TOKENIZER), **changes)
    model.save_pretrained(folder)
    return Start(folder, torch.float32, torch.device("cpu"))


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in model.state_dict().items()}


def tune(start: Start, settings: FineTuning, folder: Path, callbacks: Any = (), **options: Any) -> Any:
    """(the tuned model, what was trained)."""
    dataset = options.pop("dataset", None) or encoded()
    return fine_tune(start, TOKENIZER, dataset, settings, folder, 0, callbacks, **options)


class Killed(Exception):
    pass


class KillAt(TrainerCallback):
    """Ends the training with an exception after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise Killed


class Log(TrainerCallback):
    """Keeps every line that the Trainer logs."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.lines.append(dict(logs))
