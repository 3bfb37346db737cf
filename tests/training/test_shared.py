"""What the processes of a run share while they train, without starting them."""

import pytest
import torch
from tiny import tiny_model
from tuned import TOKENIZER, encoded

from depthprune.distributed.rows import WithBlanks, WithoutBlanks
from depthprune.training import Distillation, Full
from depthprune.training.shared import EpochLengthGroups
from depthprune.training.teacher import TeacherCache
from depthprune.training.trainer import sft_trainer


def test_rows_of_like_length_come_in_one_order_an_epoch():
    lengths = torch.randint(1, 50, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    first, second = (EpochLengthGroups(8, lengths, seed=3) for _ in range(2))
    torch.rand(5)  # whatever a process has drawn since
    order = list(first)
    assert order == list(second) and sorted(order) == list(range(40))
    second.set_epoch(1)
    assert list(second) != order


@pytest.mark.parametrize("loss", ["ce", "distill"])
def test_a_process_without_a_row_learns_nothing(loss, tmp_path):
    rows, model = encoded(8), tiny_model(layers=2, vocab_size=len(TOKENIZER))
    teacher = None
    if loss == "distill":
        teacher = TeacherCache(tmp_path / "teacher", rows, Distillation())
        teacher.fill(model, TOKENIZER, teacher.missing(), 256)
    trainer = sft_trainer(model, TOKENIZER, rows, Full(loss=loss, bf16=False), tmp_path, 0, teacher=teacher)
    places, data = WithBlanks(trainer.train_dataset), trainer.train_dataset
    collate = WithoutBlanks(trainer.data_collator, data)
    there = collate([places[1], places[8]])
    assert torch.equal(there["input_ids"], trainer.data_collator([data[1]])["input_ids"])

    batch = collate([places[8], places[9]])
    loss = trainer.compute_loss(trainer.model.train(), batch, num_items_in_batch=torch.tensor(7))
    loss.backward()
    assert loss.item() == 0
    gradients = [weight.grad for weight in model.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
