"""Memory beyond the model with a real vocabulary: logits in chunks against those of a whole batch.

    python benchmarks/vocabulary.py                      # a two-layer model with Gemma's vocabulary
    python benchmarks/vocabulary.py --model DIR --tokens 2048

Each side runs in a process of its own, on the same rows; the results of both are compared too.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from depthprune.cost import measured
from depthprune.model.anatomy import decoder, decoder_layers
from depthprune.model.freeze import all_frozen
from depthprune.model.head import IGNORED, backward_sample_losses, next_tokens, summed_loss

VOCABULARY = 262_144


def load(path: str | None) -> torch.nn.Module:
    """The model in float32."""
    if path is not None:
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_hidden_layers=2, **sizes)).eval()


@torch.inference_mode()
def whole_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Evaluation from the logits of the batch."""
    logits = model(**batch, use_cache=False).logits.float()
    return float(F.cross_entropy(logits.flatten(0, 1), next_tokens(batch).flatten(), ignore_index=IGNORED))


@torch.inference_mode()
def chunked_loss(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """Evaluation as it is."""
    targets = next_tokens(batch)
    output = decoder(model)(**batch, use_cache=False)
    return summed_loss(model, output, targets) / int((targets != IGNORED).sum())


def whole_gradient(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """The norm of the layers' gradient, by autograd through the logits of the batch."""
    logits = model(**batch, use_cache=False).logits.float()
    losses = [
        F.cross_entropy(row, tokens, ignore_index=IGNORED)
        for row, tokens in zip(logits, next_tokens(batch), strict=True)
    ]
    sum(losses).backward()
    return gradient_norm(model)


def chunked_gradient(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """The same as the gradient metrics take it."""
    backward_sample_losses(model, batch)
    return gradient_norm(model)


def gradient_norm(model: torch.nn.Module) -> float:
    return float(sum(weight.grad.square().sum() for weight in decoder_layers(model).parameters())) ** 0.5


SIDES: dict[str, tuple[Callable, Callable]] = {
    "loss of a text": (whole_loss, chunked_loss),
    "gradient": (whole_gradient, chunked_gradient),
}


def one(task: str, side: int, path: str | None, rows: int, tokens: int) -> None:
    """Prints the result and the bytes beyond the model of one side."""
    model = load(path)
    ids = torch.randint(
        5, model.config.vocab_size, (rows, tokens), generator=torch.Generator().manual_seed(0)
    )
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with all_frozen(model):
        decoder_layers(model).requires_grad_(task == "gradient")
        with measured() as before:
            pass
        with measured() as cost:
            value = SIDES[task][side](model, batch)
    print(
        json.dumps(
            {
                "value": value,
                "bytes": cost["peak_bytes"] - before["peak_bytes"],
                "seconds": cost["seconds"],
            }
        )
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="a model folder")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one[0], int(arguments.one[1]), arguments.model, arguments.rows, arguments.tokens)
        return
    for task in SIDES:
        found = []
        for side in ("0", "1"):
            command = [sys.executable, __file__, "--one", task, side, "--rows", str(arguments.rows)]
            command += ["--tokens", str(arguments.tokens)] + (
                ["--model", arguments.model] if arguments.model else []
            )
            found.append(
                json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            )
        whole, chunked = found
        print(
            f"{task}: {whole['bytes'] / 1e9:.2f} GB in one, {chunked['bytes'] / 1e9:.2f} GB in chunks, "
            f"{whole['bytes'] / chunked['bytes']:.1f} times less; "
            f"{whole['seconds']:.1f} s and {chunked['seconds']:.1f} s; "
            f"results {whole['value']:.6f} and {chunked['value']:.6f}"
        )


if __name__ == "__main__":
    main()
