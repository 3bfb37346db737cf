"""The dense model's predictions on the training rows, on disk, so that it is gone when training starts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.utils import ModelOutput

from depthprune.cost import with_progress
from depthprune.data.batches import collate, token_batches
from depthprune.files import put_in_place
from depthprune.model.head import chunked_logits
from depthprune.training.base import Distillation
from depthprune.training.learned import learned_states, learned_tokens

if TYPE_CHECKING:
    from datasets import Dataset

BLOCK = 128  # rows a file


def lumped(logits: Tensor, ids: Tensor) -> Tensor:
    """The logits of the tokens `ids` [N, k], then that of all others: [N, k + 1]; [N, V] for k = V."""
    chosen = logits.gather(-1, ids)
    if ids.shape[-1] == logits.shape[-1]:
        return chosen
    others = logits.scatter(-1, ids, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([chosen, others], dim=-1)


@dataclass(frozen=True)
class TeacherCache:
    """For each learned token of `rows`: the teacher's k likeliest tokens, and its log-probabilities.

    A safetensors file for each 128 rows: `ids` int32 [N, k] and `logprobs` float32, as `lumped` orders them.
    Files that are there are whole and stay: filling goes on where it was killed.
    """

    folder: Path
    rows: "Dataset"
    """As `data.encode` makes them; `folder` belongs to these rows alone."""
    settings: Distillation

    @cached_property
    def starts(self) -> list[int]:
        """Where each row's tokens begin in its file; one more for the end of the last row."""
        counts = [learned_tokens(row) for row in self.rows]
        blocks = [counts[first : first + BLOCK] for first in range(0, len(counts), BLOCK)]
        return [start for block in blocks for start in list(accumulate(block, initial=0))[:-1]]

    @cached_property
    def _files(self) -> dict[int, Any]:
        return {}

    def missing(self) -> list[int]:
        """The first rows of the blocks that have no file yet."""
        return [first for first in range(0, len(self.rows), BLOCK) if not self._path(first).is_file()]

    def fill(
        self, teacher: nn.Module, tokenizer: PreTrainedTokenizerBase, blocks: list[int], tokens: int
    ) -> None:
        """Runs the teacher over `blocks` of `missing`, at most `tokens` tokens (or one row) at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for first in with_progress(blocks, "teacher"):
            rows = self.rows.select(range(first, min(first + BLOCK, len(self.rows)))).to_list()
            path = self._path(first)
            partial = path.with_suffix(".partial")
            save_file(self._predict(teacher, tokenizer, rows, tokens), partial)
            put_in_place(partial, path)

    @torch.inference_mode()
    def _predict(
        self, teacher: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: list[Any], tokens: int
    ) -> dict[str, Tensor]:
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for indices in token_batches([len(row["input_ids"]) for row in rows], tokens):
            batch = collate([rows[i] for i in indices], tokenizer)
            device = next(teacher.parameters()).device
            inputs = {name: values.to(device) for name, values in batch.items()}
            _, decoded, hidden, _ = learned_states(teacher, inputs)
            ids, logprobs = self._likeliest(teacher, decoded, hidden)
            counts = [learned_tokens(rows[i]) for i in indices]
            parts = zip(indices, ids.split(counts), logprobs.split(counts), strict=True)
            found |= {i: (tokens_, logprobs_) for i, tokens_, logprobs_ in parts}
        ordered = [found[i] for i in range(len(rows))]
        return {
            "ids": torch.cat([ids for ids, _ in ordered]),
            "logprobs": torch.cat([logprobs for _, logprobs in ordered]),
        }

    def _likeliest(self, teacher: nn.Module, decoded: ModelOutput, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """`ids` and `logprobs` behind hidden states [N, d], on the CPU."""
        ids, logprobs = [], []
        for _, logits in chunked_logits(teacher, decoded, hidden):
            logits = logits / self.settings.temperature
            likeliest = logits.topk(min(self.settings.top_k, logits.shape[-1])).indices
            ids.append(likeliest.int().cpu())
            logprobs.append(lumped(logits, likeliest).log_softmax(-1).cpu())
        return torch.cat(ids), torch.cat(logprobs)

    def predictions(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(ids int64 [N, k], log-probabilities [N, k + 1]) of the N learned tokens of these rows."""
        slices = []
        for row in rows:
            first = row - row % BLOCK
            if first not in self._files:
                self._files[first] = safe_open(self._path(first), "pt")
            start = self.starts[row]
            end = start + learned_tokens(self.rows[row])
            slices.append([self._files[first].get_slice(name)[start:end] for name in ("ids", "logprobs")])
        ids, logprobs = zip(*slices, strict=True)
        return torch.cat(ids).long(), torch.cat(logprobs)

    def _path(self, first: int) -> Path:
        return self.folder / f"{first:08d}.safetensors"
