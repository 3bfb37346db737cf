"""transformers 4: greedy tokens and logits, in float32."""

from typing import Any

import torch
import transformers
from request import answer


@torch.inference_mode()
def run(folder: str, request: dict[str, Any]) -> dict[str, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens, logits = [], []
    for prompt in request["prompts"]:
        ids = torch.tensor([prompt])
        logits.append(model(ids).logits[0, -1].tolist())
        new = request["new_tokens"]
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new, pad_token_id=0
        )
        tokens.append(out[0, len(prompt) :].tolist())
    return {"tokens": tokens, "logits": logits, "tokenizer": tokenizer(folder, request["texts"])}


def tokenizer(folder: str, texts: list[str]) -> Any:
    """The token ids of the texts; transformers 4 does not know the newest classes, and says so."""
    try:
        return transformers.AutoTokenizer.from_pretrained(folder)(texts).input_ids
    except ValueError as error:
        return f"refused: {error}"


answer(f"transformers {transformers.__version__}", run)
