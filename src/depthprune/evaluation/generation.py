"""Exact match and ROUGE-L of what the model writes after a prompt."""

import re

import torch
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import Tokenizer
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from depthprune.data.batches import padding_id, token_batches
from depthprune.data.examples import Examples
from depthprune.data.tokens import encode_prompts, keep_end, opening
from depthprune.evaluation.logprobs import BATCH_ROW
from depthprune.evaluation.measurement import Measurement, mean_and_stderr
from depthprune.evaluation.progress import with_progress


class _Words(Tokenizer):
    """ROUGE's own words (lower case, letters and digits), in every script and not only in ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"[^\W_]+", text.lower())


def completion_overlap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    batch_size: int,
    length: int,
    max_new_tokens: int,
    chat_template: str | None = None,
) -> list[Measurement]:
    """`text_overlap` of what greedy decoding writes with the completions, each the mean over the rows."""
    prompts = encode_prompts(examples, tokenizer, chat_template)
    written = generate(model, tokenizer, prompts, batch_size, length, max_new_tokens)
    measured = []
    for metric, row_values in text_overlap(written, list(examples.rows["completion"])).items():
        value, stderr = mean_and_stderr(row_values)
        measured.append(Measurement(examples.name, metric, value, len(row_values), stderr))
    return measured


def text_overlap(written: list[str], wanted: list[str]) -> dict[str, list[float]]:
    """For each pair of texts, in [0, 1]: `exact_match`, and `rougeL` (F measure, no stemming).

    In an exact match every run of white space counts as one space and none at the ends; case counts.
    """
    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    pairs = list(zip(written, wanted, strict=True))
    return {
        "exact_match": [float(one.split() == other.split()) for one, other in pairs],
        "rougeL": [float(scorer.score(other, one)["rougeL"].fmeasure) for one, other in pairs],
    }


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    batch_size: int,
    length: int,
    max_new_tokens: int,
) -> list[str]:
    """The texts that greedy decoding writes after each prompt, in the order of `prompts`.

    Prompt and text share `length` tokens: a long prompt loses its beginning, but at most half of `length` is
    kept for the text.
    """
    new_tokens = min(max_new_tokens, length // 2)
    bos = opening(tokenizer)
    prompts = [keep_end(ids, length - new_tokens, bos) for ids in prompts]
    settings = _greedy(model, tokenizer, new_tokens)
    texts = [""] * len(prompts)
    grouped = token_batches([len(ids) + new_tokens for ids in prompts], batch_size * BATCH_ROW)
    for indices in with_progress(grouped, "generation"):
        input_ids, attention_mask = _pad_left([prompts[i] for i in indices], padding_id(tokenizer))
        output = model.generate(  # type: ignore[operator]
            input_ids.to(model.device),
            attention_mask=attention_mask.to(model.device),
            generation_config=settings,
        )
        for i, ids in zip(indices, output[:, input_ids.shape[1] :], strict=True):
            texts[i] = str(tokenizer.decode(ids, skip_special_tokens=True))
    return texts


def _greedy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, new_tokens: int) -> GenerationConfig:
    """Plain greedy decoding, whatever beams or penalties the checkpoint's own generation config asks for."""
    own = model.generation_config
    stated = own.eos_token_id if own is not None and own.eos_token_id is not None else []
    ends = {tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])} - {None}
    return GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        pad_token_id=padding_id(tokenizer),
        eos_token_id=sorted(ends) or None,
    )


def _pad_left(prompts: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`input_ids` and `attention_mask`, [B, T], padded on the left: generation goes on at the right."""
    width = max(len(ids) for ids in prompts)
    input_ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts])
    attention_mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    return input_ids, attention_mask
