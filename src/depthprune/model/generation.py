"""Batched generation, padded on the left."""

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from depthprune.data.batches import padding_id
from depthprune.data.tokens import keep_end, opening


def fitted(
    prompts: list[list[int]], tokenizer: PreTrainedTokenizerBase, length: int, max_new_tokens: int
) -> tuple[list[list[int]], int]:
    """The prompts so cut, and so many new tokens, that a prompt and its text share `length` tokens.

    A long prompt loses its beginning, but at most half of `length` is kept for the text.
    """
    new_tokens = min(max_new_tokens, length // 2)
    bos = opening(tokenizer)
    return [keep_end(ids, length - new_tokens, bos) for ids in prompts], new_tokens


def decoding(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, new_tokens: int, temperature: float = 0.0
) -> GenerationConfig:
    """Plain greedy decoding, or sampling at a temperature above 0 from the whole distribution.

    Whatever beams, penalties or cuts the checkpoint's own generation config asks for are off.
    """
    own = model.generation_config
    stated = own.eos_token_id if own is not None and own.eos_token_id is not None else []
    ends = {tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])} - {None}
    sampling = {"temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
    return GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=temperature > 0,
        **sampling,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        pad_token_id=padding_id(tokenizer),
        eos_token_id=sorted(ends) or None,
    )


def continuations(
    model: PreTrainedModel, prompts: list[list[int]], settings: GenerationConfig
) -> list[list[int]]:
    """The token ids written after each prompt of one batch, up to and with the first end token."""
    input_ids, attention_mask = _pad_left(prompts, settings.pad_token_id)
    output = model.generate(  # type: ignore[operator]
        input_ids.to(model.device),
        attention_mask=attention_mask.to(model.device),
        generation_config=settings,
    )
    ends = set(settings.eos_token_id or [])
    written = []
    for ids in output[:, input_ids.shape[1] :].tolist():
        stop = next((i for i, token in enumerate(ids) if token in ends), len(ids) - 1)
        written.append(ids[: stop + 1])
    return written


def _pad_left(prompts: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`input_ids` and `attention_mask`, [B, T], padded on the left: generation goes on at the right."""
    width = max(len(ids) for ids in prompts)
    input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts])
    attention_mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    return input_ids, attention_mask
