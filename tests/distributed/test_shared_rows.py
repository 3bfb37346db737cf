"""How several processes share rows, without starting them."""

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard, SeedableRandomSampler
from torch.utils.data import BatchSampler

from depthprune.distributed.rows import EvenSampler, share_of
from depthprune.errors import UserError
from depthprune.settings import TrainerSettings


def parts(items, size):
    return [items[start : start + size] for start in range(0, len(items), size)]


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("at_once, passes", [(4, 2), (3, 8), (1, 24), (24, 1), (6, 4)])
def test_a_share_is_a_whole_number_of_passes(at_once, passes, processes):
    settings = TrainerSettings(per_device_train_batch_size=at_once, gradient_accumulation_steps=passes)
    if at_once * passes % processes:
        with pytest.raises(UserError, match=f"training takes {at_once * passes} rows"):
            share_of(settings, processes)
        return
    rows, times = share_of(settings, processes)
    assert rows * times * processes == at_once * passes and rows <= at_once


@pytest.mark.parametrize("count", [1, 7, 8, 9, 21])
@pytest.mark.parametrize("at_once, passes, processes", [(2, 1, 2), (1, 3, 2), (2, 2, 4)])
def test_every_update_has_the_rows_of_one_process(count, at_once, passes, processes):
    torch.manual_seed(5)
    alone = list(SeedableRandomSampler(range(count)))
    shares = []
    for process in range(processes):  # each has a sampler of its own, which counts its epochs
        order = EvenSampler(SeedableRandomSampler(range(count)), at_once * processes)
        batches = BatchSamplerShard(BatchSampler(order, at_once, False), processes, process)
        shares.append(parts(list(batches), passes))
    assert len({len(share) for share in shares}) == 1
    found = [
        sorted(row for share in update for batch in share for row in batch if row < count)
        for update in zip(*shares, strict=True)
    ]
    assert found == [sorted(rows) for rows in parts(alone, at_once * passes * processes)]
