"""mlx-lm on a CPU: greedy tokens and logits, in float32."""

from importlib.metadata import version
from typing import Any

import mlx.core as mx
from mlx_lm import load
from mlx_lm.generate import generate_step
from request import answer


def run(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    model, _ = load(folder)
    model.set_dtype(mx.float32)
    tokens, logits = [], []
    for prompt in request["prompts"]:
        logits.append(model(mx.array([prompt]))[0, -1].tolist())
        steps = generate_step(mx.array(prompt), model, max_tokens=request["new_tokens"])
        tokens.append([int(token) for token, _ in steps])
    return {"tokens": tokens, "logits": logits}


answer(f"mlx-lm {version('mlx-lm')}", run)
