"""Distillation from the dense model: the divergence from its predictions joins the cross-entropy.

    L = (1 − w) · CE + w · τ² · KL(p ‖ q),   both a mean over the tokens that CE learns

p and q are the teacher's and the student's distributions at temperature τ over k + 1 outcomes: the teacher's
k likeliest tokens, and all others together. Lumping outcomes never raises a divergence, so this is a lower
bound of the full one, zero only where the student gives these tokens the teacher's probabilities; with k = V
it is the full one. Renormalising the k tokens instead would leave the student's mass on all others free.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.utils import ModelOutput

from depthprune.model.head import chunk_rows, logits_of
from depthprune.training.learned import learned_states
from depthprune.training.shared import SharedTrainer
from depthprune.training.teacher import TeacherCache, lumped


def divergence(logits: Tensor, ids: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Σ over the N tokens of KL(teacher ‖ student), in nats.

    Args:
        logits: the student's, float32 [N, V].
        ids: the teacher's k likeliest tokens, [N, k].
        teacher: log-probabilities of the outcomes of `lumped`, [N, k + 1], or [N, V] where k is V.
    """
    student = lumped(logits / temperature, ids).log_softmax(-1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True)


class TaughtBatches:
    """A collator that puts the teacher's predictions beside the batch that `collate` makes of the rows."""

    def __init__(self, collate: Any, teacher: TeacherCache) -> None:
        self.collate = collate
        self.teacher = teacher

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        ids, logprobs = self.teacher.predictions([row["row"] for row in rows])
        return {**self.collate(rows), "teacher_ids": ids, "teacher_logprobs": logprobs}


class DistillTrainer(SharedTrainer):
    """SFTTrainer with the loss above. `teacher` holds predictions for each row of `train_dataset`."""

    def __init__(self, *, train_dataset: Any, teacher: TeacherCache, **options: Any) -> None:
        numbered = train_dataset.add_column("row", list(range(len(train_dataset))))
        super().__init__(train_dataset=numbered, **options)
        self.data_collator = TaughtBatches(self.data_collator, teacher)
        self.settings = teacher.settings
        self.sums = torch.zeros(3, dtype=torch.float64)  # CE, KL and tokens since the last line of the log

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        options = {"output_router_logits": True} if self.aux_loss_enabled else {}
        output, decoded, hidden, targets = learned_states(model, inputs, **options)
        weight, temperature = self.settings.weight, self.settings.temperature
        teacher = inputs["teacher_ids"], inputs["teacher_logprobs"]
        ce, kl = self._parts(model, decoded, hidden, targets, *teacher)
        self.sums += torch.stack([ce.detach(), kl.detach(), torch.as_tensor(len(targets))]).double().cpu()
        tokens = len(targets) if num_items_in_batch is None else num_items_in_batch
        loss = ((1 - weight) * ce + weight * temperature**2 * kl) / max(tokens, 1)
        if num_items_in_batch is not None:
            # As in SFTTrainer: the count is that of all processes and micro-batches, over which DDP averages.
            loss = loss * self.accelerator.num_processes
        if self.aux_loss_enabled:
            micro_batches = 1 if num_items_in_batch is None else self.current_gradient_accumulation_steps
            loss = loss + self.router_aux_loss_coef * output.aux_loss / micro_batches
        return (loss, output) if return_outputs else loss

    def _parts(self, model: Any, decoded: ModelOutput, *rows: Tensor) -> Tensor:
        """(Σ CE, Σ KL) over the learned tokens; logits of a few at a time, and anew for the gradient.

        `rows` are hidden states, targets, and the teacher's ids and log-probabilities, one row a token each.
        """

        def parts(hidden: Tensor, targets: Tensor, ids: Tensor, logprobs: Tensor) -> Tensor:
            logits = logits_of(model, decoded, hidden).float()
            ce = F.cross_entropy(logits, targets, reduction="sum")
            return torch.stack([ce, divergence(logits, ids, logprobs, self.settings.temperature)])

        size = chunk_rows(model)
        if len(rows[0]) <= size:
            return parts(*rows)
        chunks = zip(*(values.split(size) for values in rows), strict=True)
        return torch.stack([checkpoint(parts, *chunk, use_reentrant=False) for chunk in chunks]).sum(dim=0)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self.sums[2]:
            ce, kl, tokens = self.sums.tolist()
            logs |= {"ce": ce / tokens, "kl": kl / tokens}
            self.sums.zero_()
        super().log(logs, start_time)
