"""TRL's SFTTrainer, whose processes share the rows of an update as `distributed.rows` has it."""

from typing import Any

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import LengthGroupedSampler
from trl import SFTTrainer

from depthprune.data.batches import IGNORED
from depthprune.distributed.rows import EvenSampler, WithBlanks, WithoutBlanks


class EpochLengthGroups(LengthGroupedSampler):
    """Rows of like length together, in an order that is the same in every process."""

    def __init__(self, rows: int, lengths: list[int], seed: int) -> None:
        super().__init__(rows, lengths=lengths, generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)


class SharedTrainer(SFTTrainer):
    """SFTTrainer; where there are several processes, they make the updates that one would make."""

    def get_train_dataloader(self) -> DataLoader:
        if self.args.world_size == 1:
            return super().get_train_dataloader()
        rows = self._remove_unused_columns(self.train_dataset, "training")
        return self._get_dataloader(
            WithBlanks(rows), "Training", self._train_batch_size, self._even_sampler, is_training=True
        )

    def _even_sampler(self, rows: Any) -> EvenSampler:
        at_once = self._train_batch_size * self.args.world_size
        if self.args.train_sampling_strategy == "group_by_length":
            lengths = [len(ids) for ids in rows.rows["input_ids"]]
            update = at_once * self.args.gradient_accumulation_steps
            order: Any = EpochLengthGroups(update, lengths, self.args.seed)
        else:
            order = SeedableRandomSampler(rows)  # which accelerate makes of one process's, too
        return EvenSampler(order, at_once)

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        """Called for rows that are no plain `Dataset`, whose columns are removed already."""
        return WithoutBlanks(data_collator, self.train_dataset)

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        """The tokens of a row that stands for none do not count."""
        if self.args.world_size > 1 and not (inputs["labels"] != IGNORED).any():
            inputs = {**inputs, "attention_mask": torch.zeros_like(inputs["attention_mask"])}
        super()._track_num_input_tokens(inputs)
