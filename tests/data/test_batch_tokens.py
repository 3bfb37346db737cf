import random
from pathlib import Path

import pytest
from tiny_tokenizer import tiny_tokenizer
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from depthprune.data.batch_tokens import pieces, token_ids
from depthprune.model.loading import load_tokenizer

LAB = Path(__file__).parents[3] / "shared" / "lab"
SPLIT = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def wrapped(pre_tokenizer, normalizer=None, **special) -> PreTrainedTokenizerFast:
    """The tiny tokenizer with merges of common pairs, and another way to cut text into words."""
    pairs = [(a, b) for a in "etaoin" for b in "etaoin "]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    space = "Ġ"
    merges = [(a, b.replace(" ", space)) for a, b in pairs] + [(space, a) for a in "etaoin"]
    vocabulary = {t: i for i, t in enumerate(dict.fromkeys([*alphabet, "▁", *(a + b for a, b in merges)]))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def text(seed: int, words: int = 3000) -> str:
    draw = random.Random(seed)
    letters = "etaoinETA13.,'-é\u0301 "
    ends = [" ", " ", " ", "  ", "\n", "\n\n", " \n", "\t"]
    return "".join(
        "".join(draw.choices(letters, k=draw.randint(1, 9))) + draw.choice(ends) for _ in range(words)
    )


LLAMA3 = pre_tokenizers.Sequence(
    [
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
KINDS = {
    "gpt2": (pre_tokenizers.ByteLevel(add_prefix_space=False), None),
    "gpt2-prefix": (pre_tokenizers.ByteLevel(add_prefix_space=True), None),
    "llama3": (LLAMA3, None),
    "qwen": (LLAMA3, normalizers.NFC()),
    "metaspace-first": (pre_tokenizers.Metaspace(prepend_scheme="first"), None),
    "metaspace-always": (pre_tokenizers.Metaspace(prepend_scheme="always"), None),
    "gemma": (pre_tokenizers.Split(" ", "merged_with_previous"), normalizers.Replace(" ", "▁")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_of_a_long_text_have_the_tokens_of_the_whole(kind):
    tokenizer = wrapped(*KINDS[kind])
    texts = [text(seed) for seed in range(3)] + ["", "short", "x" * 5000]
    expected = [tokenizer(one, add_special_tokens=False)["input_ids"] for one in texts]
    assert token_ids(texts, tokenizer, batch=1000) == expected
    assert ["".join(pieces(one, tokenizer, 1000)) for one in texts] == texts
    count = len(list(pieces(texts[0], tokenizer, 1000)))
    assert (count > 5) == (kind != "gemma")


def test_added_tokens_with_spaces_are_not_cut():
    tokenizer = wrapped(pre_tokenizers.ByteLevel(add_prefix_space=False))
    tokenizer.add_tokens(["ta to"])
    one = "ta to " * 2000
    assert token_ids([one], tokenizer, batch=100) == [tokenizer(one, add_special_tokens=False)["input_ids"]]


def test_settings_of_an_earlier_call_do_not_count():
    tokenizer = tiny_tokenizer()
    tokenizer(["a", "long text"], padding=True, truncation=True, max_length=3)
    assert [len(ids) for ids in token_ids(["a", "long text"], tokenizer)] == [1, 9]


def test_a_tokenizer_that_does_more_in_python_is_asked_itself():
    class Own(PreTrainedTokenizerFast):
        def _encode_plus(self, text, *args, **kwargs):
            return super()._encode_plus([one.upper() for one in text], *args, **kwargs)

    tokenizer = Own(tokenizer_object=tiny_tokenizer().backend_tokenizer)
    assert token_ids(["ab"], tokenizer) == tiny_tokenizer()(["AB"], add_special_tokens=False)["input_ids"]


@pytest.mark.skipif(not LAB.is_dir(), reason="the lab is not there")
def test_real_text_in_pieces():
    tokenizer = load_tokenizer(LAB / "model")
    whole = (LAB / "text" / "wikitext2-test.txt").read_text(encoding="utf-8")[:200_000]
    assert len(list(pieces(whole, tokenizer, 5000))) > 20
    assert token_ids([whole], tokenizer, batch=5000) == [
        tokenizer(whole, add_special_tokens=False)["input_ids"]
    ]
