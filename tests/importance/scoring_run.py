"""A tiny scoring run on SFTTrainer, and the same training written out by hand."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from datasets import Dataset
from tiny_tokenizer import tiny_tokenizer

from depthprune.importance.igia import Igia
from depthprune.importance.recorder import GradientRecorder
from depthprune.training.trainer import sft_trainer

# Every batch holds all rows unless a test says otherwise, so the Trainer's shuffling changes nothing.
SETTINGS = {
    "steps": 5,
    "num_train_epochs": 20,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "lora_r": 3,
    "lora_alpha": 6,
    "lora_dropout": 0.0,
}


def rows(count=4, length=12):
    """Completion rows of different lengths."""
    generator = torch.Generator().manual_seed(7)
    made = []
    for i in range(count):
        ids = torch.randint(3, 128, (length - i % 3,), generator=generator).tolist()
        made.append({"input_ids": ids, "completion_mask": [0] * 4 + [1] * (len(ids) - 4)})
    return made


def record(model, folder: Path, data=None, callbacks=(), spools=True, **settings):
    """Runs the recorder in a real Trainer; returns it, the trainer, and the adapters' first weights."""
    igia = Igia(**{**SETTINGS, **settings})
    spool = folder / "gradients"
    spool.mkdir(parents=True, exist_ok=True)
    recorder = GradientRecorder(igia, spool if spools else None)
    dataset = Dataset.from_list(rows() if data is None else data)
    trainer = sft_trainer(
        model, tiny_tokenizer(), dataset, igia, folder / "trainer", 0, [recorder, *callbacks]
    )
    first = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    return recorder, trainer, first


def learning_rates(total, peak=SETTINGS["learning_rate"], warmup=0.03):
    """The cosine schedule of a run of `total` steps, step by step."""
    warm = math.ceil(warmup * total)
    course = [(i - warm) / (total - warm) for i in range(total)]
    return [
        peak * i / warm if i < warm else peak * (1 + math.cos(math.pi * course[i])) / 2 for i in range(total)
    ]


def naive_gradients(model, adapters, rates, data=None, scaling=2.0):
    """LoRA training in plain torch, without PEFT or Trainer: {path: [(∇A, ∇B) of each step]}.

    `model` is the plain model, `adapters` {path: (A, B)} its first adapter weights; one batch of all rows.
    """
    data = rows() if data is None else data
    longest = max(len(row["input_ids"]) for row in data)
    ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in data])
    mask = torch.tensor([[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in data])
    labels = ids.clone()
    for i, row in enumerate(data):
        labels[i, :4] = -100
        labels[i, len(row["input_ids"]) :] = -100
    factors = {
        path: (a.clone().requires_grad_(), b.clone().requires_grad_()) for path, (a, b) in adapters.items()
    }
    base = {path: model.get_submodule(path).weight.detach() for path in factors}
    flat = [factor for pair in factors.values() for factor in pair]
    optimizer = torch.optim.AdamW(flat, weight_decay=0.1)
    found = {path: [] for path in factors}
    for rate in rates:
        weights = {f"{path}.weight": base[path] + scaling * b @ a for path, (a, b) in factors.items()}
        output = torch.func.functional_call(model, weights, (), {"input_ids": ids, "attention_mask": mask})
        loss = F.cross_entropy(
            output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100
        )
        gradients = torch.autograd.grad(loss, flat)
        norm = torch.sqrt(sum((gradient**2).sum() for gradient in gradients))
        for factor, gradient in zip(flat, gradients, strict=True):
            factor.grad = gradient * min(1.0, 1.0 / (norm + 1e-6))
        for path, (a, b) in factors.items():
            found[path].append((a.grad.clone(), b.grad.clone()))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    return found


def naive_matrices(gradients):
    """F_W = mean over steps of (∇B·∇A)², materialised, {path: [out, in]}."""
    return {
        path: torch.stack([(b.double() @ a.double()) ** 2 for a, b in steps]).mean(dim=0)
        for path, steps in gradients.items()
    }
