"""Exact match and ROUGE-L of what the model writes after a prompt."""

from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from depthprune.data.batches import padding_id
from depthprune.data.examples import Examples
from depthprune.data.tokens import encode_prompt, opening
from depthprune.evaluation.measurement import Measurement, mean_and_stderr


def completion_overlap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    batch_size: int,
    length: int,
    max_new_tokens: int,
    chat_template: str | None = None,
) -> list[Measurement]:
    """Exact match (runs of white space count as one space, none at the ends) and ROUGE-L (F, no stemming)."""
    prompts = [encode_prompt(prompt, tokenizer, chat_template) for prompt in examples.rows["prompt"]]
    written = generate(model, tokenizer, prompts, batch_size, length, max_new_tokens)
    wanted = examples.rows["completion"]
    scorer = RougeScorer(["rougeL"])
    exact = [float(w.split() == c.split()) for w, c in zip(written, wanted, strict=True)]
    overlap = [scorer.score(c, w)["rougeL"].fmeasure for w, c in zip(written, wanted, strict=True)]
    return [
        Measurement(examples.name, "exact_match", *_with_n(exact)),
        Measurement(examples.name, "rougeL", *_with_n(overlap)),
    ]


def _with_n(values: list[float]) -> tuple[float, int, float | None]:
    value, stderr = mean_and_stderr(values)
    return value, len(values), stderr


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    batch_size: int,
    length: int,
    max_new_tokens: int,
) -> list[str]:
    """The texts that greedy decoding writes after each prompt, in the order of `prompts`."""
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        inputs = _pad_left([prompts[i] for i in chosen], tokenizer, length - max_new_tokens)
        width = inputs["input_ids"].shape[1]
        output = model.generate(
            **{name: tensor.to(model.device) for name, tensor in inputs.items()},
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=padding_id(tokenizer),
        )
        for i, ids in zip(chosen, output[:, width:], strict=True):
            texts[i] = tokenizer.decode(ids, skip_special_tokens=True)
    return texts


def _pad_left(prompts: list[list[int]], tokenizer: PreTrainedTokenizerBase, room: int) -> dict[str, Any]:
    """Generation goes on at the right end, so the padding stands on the left."""
    bos = opening(tokenizer)
    cut = [p if len(p) <= room else bos + p[len(p) - (room - len(bos)) :] for p in prompts]
    width = max(len(ids) for ids in cut)
    input_ids = torch.full((len(cut), width), padding_id(tokenizer))
    attention_mask = torch.zeros((len(cut), width), dtype=torch.long)
    for i, ids in enumerate(cut):
        input_ids[i, width - len(ids) :] = torch.tensor(ids)
        attention_mask[i, width - len(ids) :] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}
