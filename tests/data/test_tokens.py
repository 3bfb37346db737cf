import logging

import datasets
import pytest
from tiny import tiny_model
from tiny_tokenizer import tiny_tokenizer
from trl import SFTConfig, SFTTrainer

from depthprune.data.batches import collate
from depthprune.data.examples import Examples
from depthprune.data.tokens import encode, encode_choices, encode_prompts, keep_end, opening, windows
from depthprune.errors import UserError


def examples(kind: str = "prompt-completion", **columns: list) -> Examples:
    return Examples("data", "data.jsonl", kind, datasets.Dataset.from_dict(columns))


def shown(tokenizer, row: dict) -> tuple[str, str]:
    """The row's text before the completion, and the completion."""
    ids, mask = row["input_ids"], row["completion_mask"]
    assert mask == sorted(mask)
    return tokenizer.decode(ids[: mask.count(0)]), tokenizer.decode(ids[mask.count(0) :])


@pytest.mark.parametrize(("bos", "before"), [(True, "<s>News:"), (False, "News:")])
def test_prompt_and_completion(bos, before):
    tokenizer = tiny_tokenizer(bos=bos)
    encoded = encode(examples(prompt=["News:"], completion=[" good"]), tokenizer, 100)
    assert encoded.column_names == ["input_ids", "completion_mask"]
    assert encoded.cache_files == []
    assert shown(tokenizer, encoded[0]) == (before, " good</s>")


def test_spaces_at_the_end_of_a_prompt_go_to_the_completion():
    tokenizer = tiny_tokenizer()
    encoded = encode(examples(prompt=["News: \n"], completion=["good"]), tokenizer, 100)
    assert shown(tokenizer, encoded[0]) == ("<s>News:", " \ngood</s>")


def test_bos_and_eos_that_the_user_wrote_are_not_doubled():
    tokenizer = tiny_tokenizer()
    encoded = encode(examples(prompt=["<s>News:"], completion=[" good</s>"]), tokenizer, 100)
    assert shown(tokenizer, encoded[0]) == ("<s>News:", " good</s>")


def test_chat_template_writes_bos_eos_and_a_line_break_after_it():
    tokenizer = tiny_tokenizer()
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    chat = examples("messages", prompt=[turns], completion=["d"])
    encoded = encode(chat, tokenizer, 100)
    before = "<s>user: a\nassistant: b</s>\nuser: c\nassistant: "
    assert shown(tokenizer, encoded[0]) == (before, "d</s>")
    assert tokenizer.decode(encode_prompts(chat, tokenizer)[0]) == before


def test_chat_template_without_bos_and_eos():
    tokenizer = tiny_tokenizer(chat_template=False)
    chat = examples("messages", prompt=[[{"role": "user", "content": "a"}]], completion=["d"])
    template = "{% for m in messages %}{{ m.content }};{% endfor %}"
    assert shown(tokenizer, encode(chat, tokenizer, 100, template)[0]) == ("<s>a;", "d;</s>")
    with pytest.raises(UserError, match="--chat-template FILE"):
        encode(chat, tokenizer, 100)


def test_prompt_stays_a_prefix_where_a_token_would_straddle():
    tokenizer = tiny_tokenizer(merges=(("a", "b"), ("c", "d")))
    together = examples(prompt=["xa", "xc"], completion=["b", " cd"])
    first, second = encode(together, tokenizer, 100)
    assert shown(tokenizer, first) == ("<s>xa", "b</s>")
    assert shown(tokenizer, second) == ("<s>xc", " cd</s>")
    assert len(second["input_ids"]) == 3 + 2 + 1  # "cd" is one token inside the completion
    assert [row["input_ids"][:3] for row in (first, second)] == encode_prompts(together, tokenizer)


def test_choices_are_the_tokens_of_training_without_eos():
    tokenizer = tiny_tokenizer(merges=(("a", "b"),))
    rows = examples(prompt=["x "], completion=["ab"], choices=[["ab", "c"]])
    ((prompt, tails),) = encode_choices(rows, tokenizer)
    assert [tokenizer.decode(ids) for ids in (prompt, *tails)] == ["<s>x", " ab", " c"]
    assert encode(rows, tokenizer, 100)["input_ids"][0] == [*prompt, *tails[0], tokenizer.eos_token_id]


def test_truncation_keeps_the_start_and_counts_the_rows_it_leaves_out(caplog):
    tokenizer = tiny_tokenizer()
    rows = examples(prompt=["p" * 7, "p" * 8, "p" * 3], completion=["cd", "c", "c"])
    with caplog.at_level(logging.WARNING, "depthprune"):
        encoded = encode(rows, tokenizer, 9)
    assert [shown(tokenizer, row) for row in encoded] == [("<s>ppppppp", "c"), ("<s>ppp", "c</s>")]
    assert caplog.messages == ["data.jsonl: left out 1 of 3 rows, whose prompts fill max_length 9"]


def test_every_prompt_fills_max_length():
    with pytest.raises(UserError, match=r"data\.jsonl: no row has a token to learn within max_length 4"):
        encode(examples(prompt=["pppp"], completion=["c"]), tiny_tokenizer(), 4)


def test_tokenizer_without_eos():
    with pytest.raises(UserError, match="has no EOS token"):
        encode(examples("text", text=["a"]), tiny_tokenizer(eos=False), 10)


def test_documents_end_with_eos_and_long_ones_go_on_in_the_next_row():
    tokenizer = tiny_tokenizer()
    encoded = encode(examples("text", text=["abc", "abcdefg"]), tokenizer, 5)
    assert encoded.column_names == ["input_ids"]
    assert [tokenizer.decode(row) for row in encoded["input_ids"]] == ["<s>abc</s>", "<s>abcd", "<s>efg</s>"]


def test_opening_of_tokenizers():
    assert opening(tiny_tokenizer()) == [tiny_tokenizer().bos_token_id]
    assert opening(tiny_tokenizer(bos=False)) == []


def test_windows_count_the_bos_and_need_room_beside_it():
    assert windows([1, 2, 3, 4, 5], 3, [0]) == [[0, 1, 2], [0, 3, 4], [0, 5]]
    with pytest.raises(UserError, match="leaves no room"):
        windows([1, 2], 1, [0])


def test_keep_end_keeps_bos_and_the_end():
    assert keep_end([0, 1, 2, 3, 4], 3, [0]) == [0, 3, 4]
    assert keep_end([1, 2, 3], 2, []) == [2, 3]
    assert keep_end([0, 1], 2, [0]) == [0, 1]


def test_trl_trains_on_exactly_these_rows(tmp_path):
    tokenizer = tiny_tokenizer(pad=False)
    rows = examples(prompt=["p" * 7, "p" * 3], completion=["cd", "c"], choices=[["cd", "c"]] * 2)
    encoded = encode(rows, tokenizer, 9)
    settings = SFTConfig(
        output_dir=str(tmp_path),
        max_length=None,
        completion_only_loss=True,
        use_cpu=True,
        bf16=False,
        report_to="none",
    )
    trainer = SFTTrainer(
        tiny_model(layers=2, vocab_size=300), settings, train_dataset=encoded, processing_class=tokenizer
    )
    seen = trainer.data_collator(list(trainer.train_dataset))
    expected = collate(list(encoded), tokenizer)
    assert seen["input_ids"].tolist() == expected["input_ids"].tolist()
    assert seen["labels"].tolist() == expected["labels"].tolist()
