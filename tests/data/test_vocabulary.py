import datasets
import pytest
from tiny_tokenizer import tiny_tokenizer

from depthprune.data.batches import padding_id
from depthprune.data.examples import Examples
from depthprune.data.vocabulary import check_tokens, note_of, pad_within, refuse_tokens_beyond, tokens_beyond
from depthprune.errors import UserError

ROWS = len(tiny_tokenizer())


def grown(**special):
    """A tokenizer with a token more than the model has rows."""
    tokenizer = tiny_tokenizer(pad=False)
    tokenizer.add_tokens(["<tool>"]) if not special else tokenizer.add_special_tokens(special)
    return tokenizer, len(tokenizer) - 1


def examples(kind: str = "prompt-completion", **columns: list) -> Examples:
    return Examples("data", "data.jsonl", kind, datasets.Dataset.from_dict(columns))


@pytest.mark.parametrize(
    "rows",
    [
        examples(prompt=["a", "b"], completion=["a", "<tool>"]),
        examples(prompt=["a", "<tool>b"], completion=["a", "b"]),
        examples(prompt=["a", "b"], completion=["c", "c"], choices=[["c", "d"], ["c", "<tool>"]]),
        examples("text", text=["a", "b<tool>c"]),
    ],
)
def test_the_first_row_with_a_token_beyond_the_embedding_is_named(rows):
    tokenizer, size = grown()
    with pytest.raises(
        UserError, match=rf"data\.jsonl row 2: holds '<tool>', token {size}, beyond .* {size} rows"
    ):
        check_tokens(rows, tokenizer, size)
    check_tokens(rows, tokenizer, size + 1)
    check_tokens(rows, tokenizer, size + 100)  # an embedding may be longer than its tokenizer


def test_a_chat_template_that_writes_one():
    tokenizer, size = grown()
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    chat = Examples(
        "c", "c.jsonl", "messages", datasets.Dataset.from_dict({"prompt": [turns[:1]], "completion": ["b"]})
    )
    check_tokens(chat, tokenizer, size)
    template = "{% for m in messages %}<tool>{{ m.content }}{% endfor %}"
    with pytest.raises(UserError, match="holds '<tool>'"):
        check_tokens(chat, tokenizer, size, template)


def test_an_eos_beyond_the_embedding_closes_every_completion():
    tokenizer, size = grown(eos_token="<end>")
    with pytest.raises(UserError, match="row 1: holds '<end>'"):
        check_tokens(examples(prompt=["a"], completion=["a"]), tokenizer, size)


def test_tokens_that_no_row_holds_are_a_note_and_no_whole_folder():
    tokenizer, size = grown()
    check_tokens(examples("text", text=["a"]), tokenizer, size)
    assert note_of(tokenizer, size).startswith(f"a token of the tokenizer, '<tool>' ({size}), lies beyond")
    assert note_of(tokenizer, size + 1) is None
    with pytest.raises(UserError, match=r"folder: a token .*resize_token_embeddings"):
        refuse_tokens_beyond(tokenizer, size, "folder")


@pytest.mark.parametrize(
    "special",
    [{"pad_token": "<pad>"}, {"image_token": "<soft>"}, {"boi_token": "<start>"}],
)
def test_pads_and_images_may_lie_beyond(special):
    tokenizer = tiny_tokenizer(pad=False)
    size = len(tokenizer)
    wrapped = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>", **special)
    assert len(wrapped) == size + 1
    assert tokens_beyond(wrapped, size) == {}
    refuse_tokens_beyond(wrapped, size, "folder")
    assert (note_of(wrapped, size) is None) == ("pad_token" in special)


@pytest.mark.parametrize(
    ("token", "may"),
    [
        ("<image_soft_token>", True),
        ("<|image_pad|>", True),
        ("<|vision_start|>", True),
        ("<start_of_image>", True),
        ("[IMG_BREAK]", True),
        ("<|AUDIO|>", True),
        ("<video>", True),
        ("<tool>", False),
        ("<|imagine|>", False),
        ("<pilgrimage>", False),
    ],
)
def test_placeholders_are_known_by_their_names_too(token, may):
    tokenizer = tiny_tokenizer(pad=False)
    size = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [token]})
    assert (tokens_beyond(tokenizer, size) == {}) == may
    plain = tiny_tokenizer(pad=False)
    plain.add_tokens([token])  # a token like any other of a text
    assert tokens_beyond(plain, size) == {size: token}


def test_a_pad_token_beyond_the_embedding_is_replaced():
    tokenizer, size = grown(pad_token="<pad>")
    pad_within(tokenizer, size + 1)
    assert tokenizer.pad_token == "<pad>"
    pad_within(tokenizer, size)
    assert padding_id(tokenizer) == tokenizer.eos_token_id < size
    tokenizer, size = grown(pad_token="<pad>", eos_token="<end>")
    pad_within(tokenizer, size - 1)
    assert padding_id(tokenizer) == 0
