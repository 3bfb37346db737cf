"""Reproduce the demo's model: `python -m depthprune.demo.pretrain --output DIR`.

The model is trained from scratch on 2.7 M tokens of `text.documents`, every document seen once; the loss ends
near 0.96 nats a token, after about 15 minutes on one free core. The shipped one is what the defaults give;
another machine's rounding gives a sibling of it, not the same bits.
"""

import argparse
import itertools
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from depthprune.demo.text import Document, documents, plain_text
from depthprune.demo.tokenizer import CONTEXT, train_tokenizer
from depthprune.model.casting import cast_weights

LAYERS = 12
BATCH_SIZE = 8
PEAK_LEARNING_RATE = 3e-3
WARMUP_STEPS = 60
TOKENIZER_DOCUMENTS = 20_000

log = logging.getLogger(__name__)


def training_text(document: Document, tokenizer: PreTrainedTokenizerFast) -> str:
    """A document between its BOS and EOS, or an exchange in the chat template."""
    if isinstance(document, str):
        return f"{tokenizer.bos_token}{document}{tokenizer.eos_token}"
    messages = [
        {"role": "user", "content": document.question},
        {"role": "assistant", "content": document.answer},
    ]
    return str(tokenizer.apply_chat_template(messages, tokenize=False))


def windows(tokenizer: PreTrainedTokenizerFast, seed: int, length: int = CONTEXT) -> Iterator[torch.Tensor]:
    """Documents one after the other, cut into int64 tensors [length]."""
    buffer: list[int] = []
    stream = documents(seed)
    while True:
        texts = [training_text(document, tokenizer) for document in itertools.islice(stream, 500)]
        for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]:
            buffer += ids
        while len(buffer) >= length:
            yield torch.tensor(buffer[:length])
            buffer = buffer[length:]


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of 2.8 M parameters; what each layer adds starts small, so that depth is used step by step."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_attention_heads=4,
        num_key_value_heads=4,
        num_hidden_layers=LAYERS,
        max_position_embeddings=CONTEXT,
        initializer_range=0.04,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation("eager")  # a third faster than SDPA at this size on a CPU
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.div_(math.sqrt(2 * LAYERS))
    return model


def learning_rate(step: int, steps: int) -> float:
    """Fraction of the peak: linear warm-up, then a cosine down to zero."""
    warmup = min(WARMUP_STEPS, steps // 4)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, steps: int, seed: int) -> None:
    """AdamW over `steps` batches of fresh windows, in bf16 autocast; logs the loss."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    stream = windows(tokenizer, seed)
    started, recent = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        input_ids = torch.stack(list(itertools.islice(stream, BATCH_SIZE)))
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=input_ids, labels=input_ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        recent += float(loss.detach())
        if step % 50 == 0 or step == steps:
            log.info(
                "step %d loss %.3f, %.0f s", step, recent / (step % 50 or 50), time.perf_counter() - started
            )
            recent = 0.0


def pretrain(output: Path, steps: int, seed: int) -> None:
    """Train tokenizer and model, save both to `output` (bf16 safetensors)."""
    set_seed(seed)
    sample = itertools.islice(documents(seed), TOKENIZER_DOCUMENTS)
    tokenizer = train_tokenizer(plain_text(document) for document in sample)
    model = build_model(tokenizer)
    train(model, tokenizer, steps, seed + 1)
    cast_weights(model, torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m depthprune.demo.pretrain", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--steps", type=int, default=1300, help="training steps of 8 windows of 256 tokens")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pretrain(arguments.output, arguments.steps, arguments.seed)


if __name__ == "__main__":
    main()
