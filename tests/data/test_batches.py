import torch
from tiny import tiny_model
from tiny_tokenizer import tiny_tokenizer

from depthprune.data.batches import batches, padding_id, token_batches

ROWS = [
    {"input_ids": [5, 6, 7], "completion_mask": [0, 0, 1]},
    {"input_ids": [5, 6, 7, 8, 9], "completion_mask": [0, 0, 0, 1, 1]},
    {"input_ids": [5, 6], "completion_mask": [0, 1]},
]


def test_padding_is_on_the_right_and_only_completions_have_labels():
    first, second = batches(ROWS, tiny_tokenizer(), batch_size=2)
    pad = tiny_tokenizer().pad_token_id
    assert first["input_ids"].tolist() == [[5, 6, 7, pad, pad], [5, 6, 7, 8, 9]]
    assert first["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert first["labels"].tolist() == [[-100, -100, 7, -100, -100], [-100, -100, -100, 8, 9]]
    assert second["input_ids"].tolist() == [[5, 6]]
    assert {tensor.dtype for tensor in first.values()} == {torch.int64}


def test_text_has_a_label_for_every_token():
    (batch,) = batches([{"input_ids": [5, 6, 7]}], tiny_tokenizer())
    assert batch["labels"].tolist() == [[5, 6, 7]]


def test_by_length_starts_with_the_longest():
    lengths = [batch["input_ids"].shape[1] for batch in batches(ROWS, tiny_tokenizer(), 1, by_length=True)]
    assert lengths == [5, 3, 2]


def test_tokenizer_without_pad_token_stays_without():
    tokenizer = tiny_tokenizer(pad=False)
    assert padding_id(tokenizer) == tokenizer.eos_token_id
    assert padding_id(tiny_tokenizer(pad=False, eos=False)) == 0
    list(batches(ROWS, tokenizer))
    assert tokenizer.pad_token is None


def test_loss_of_a_padded_batch_is_the_token_mean_of_its_rows():
    model = tiny_model(layers=2)
    (batch,) = batches(ROWS, tiny_tokenizer(), batch_size=3)
    singles = list(batches(ROWS, tiny_tokenizer(), batch_size=1))
    with torch.no_grad():
        counts = [int((single["labels"] != -100).sum()) for single in singles]
        total = sum(model(**single).loss * count for single, count in zip(singles, counts, strict=True))
        torch.testing.assert_close(model(**batch).loss, total / sum(counts))


def test_token_batches_keep_within_the_budget():
    assert token_batches([3, 9, 4, 1, 4], budget=8) == [[1], [2, 4], [0, 3]]
    assert token_batches([], budget=8) == []
