import datasets
import pytest
import torch
from tiny_tokenizer import tiny_tokenizer

from depthprune.data.calibration import calibration_batches
from depthprune.data.examples import Examples
from depthprune.errors import UserError


def text(*documents: str) -> Examples:
    return Examples("t", "t.txt", "text", datasets.Dataset.from_dict({"text": list(documents)}))


@pytest.mark.parametrize("bos", [True, False])
def test_windows_of_text_do_not_overlap_and_open_with_bos(bos):
    tokenizer = tiny_tokenizer(bos=bos)
    documents = ["abcdefghij", "klmnopq", "rstuvwxyz"]
    samples = calibration_batches(text(*documents), tokenizer, samples=5, length=5, batch_size=2)
    assert [tuple(batch["input_ids"].shape) for batch in samples] == [(2, 5), (2, 5), (1, 5)]
    windows = torch.cat([batch["input_ids"] for batch in samples])
    if bos:
        assert (windows[:, 0] == tokenizer.bos_token_id).all()
        windows = windows[:, 1:]
    stream = "".join(document + "\0" for document in documents)
    step = 5 - bos
    allowed = [stream[i : i + step].replace("\0", "</s>") for i in range(0, len(stream) - step + 1, step)]
    drawn = [tokenizer.decode(window) for window in windows]
    assert len(set(drawn)) == 5 and set(drawn) <= set(allowed)
    assert all((batch["attention_mask"] == 1).all() for batch in samples)
    assert all((batch["labels"] == batch["input_ids"]).all() for batch in samples)


def test_seed_decides_which_windows():
    drawn = [
        [
            batch["input_ids"].tolist()
            for batch in calibration_batches(
                text("".join(map(chr, range(33, 127)))), tiny_tokenizer(), 4, 7, seed=s
            )
        ]
        for s in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_fewer_windows_than_asked():
    with pytest.raises(
        UserError, match=r"t\.txt: 4 calibration samples asked for and only 3 windows of 5 tokens"
    ):
        calibration_batches(
            text("abcdefghijklm"), tiny_tokenizer(), samples=4, length=5
        )  # 13 + EOS = 3 × 4 + 2


def test_task_rows_are_drawn_whole_and_only_completions_have_labels():
    prompts, completions = [f"question {i}" for i in range(20)], [f" {i}" for i in range(20)]
    rows = datasets.Dataset.from_dict({"prompt": prompts, "completion": completions})
    task = Examples("qa", "qa.jsonl", "prompt-completion", rows)
    tokenizer = tiny_tokenizer()
    samples = calibration_batches(task, tokenizer, samples=6, length=50, batch_size=6)
    drawn = [
        tokenizer.decode(ids[mask.bool()])
        for ids, mask in zip(samples[0]["input_ids"], samples[0]["attention_mask"], strict=True)
    ]
    assert len(set(drawn)) == 6
    assert set(drawn) <= {f"<s>{p}{c}</s>" for p, c in zip(prompts, completions, strict=True)}
    learned = [tokenizer.decode(labels[labels != -100]) for labels in samples[0]["labels"]]
    assert all(row.endswith(end) and end[0] == " " for row, end in zip(drawn, learned, strict=True))
    with pytest.raises(
        UserError, match="21 calibration samples asked for and only 20 rows that fit into 50 tokens"
    ):
        calibration_batches(task, tokenizer, samples=21, length=50)
