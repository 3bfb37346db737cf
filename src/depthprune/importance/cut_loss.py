"""What a bare cut costs on each sample: the loss of the model without some layers, no weight changed."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from depthprune.model.anatomy import unwrap
from depthprune.model.head import IGNORED, next_tokens, token_logprobs
from depthprune.model.skip import skipped
from depthprune.model.walk import outputs


@torch.inference_mode()
def cut_losses(
    model: nn.Module, batches: Sequence[dict[str, Tensor]], removed: Collection[int] = ()
) -> Tensor:
    """Of each sample Σ −log p over its tokens, in nats, and how many they are: float64 [N, 2] on the CPU.

    Every real token but the first is predicted, whatever the labels say.
    """
    found = []
    with skipped(model, removed):
        read = [{key: batch[key] for key in ("input_ids", "attention_mask")} for batch in batches]
        for inputs, output in zip(read, outputs(model, read), strict=True):
            targets = next_tokens(inputs).to(unwrap(model).device)
            wanted = targets != IGNORED
            hidden = output["last_hidden_state"][wanted.to(output["last_hidden_state"].device)]
            tokens = targets[wanted]
            rows = torch.arange(len(tokens), device=hidden.device)
            logprobs = token_logprobs(model, output, hidden, rows, tokens.to(hidden.device)).double()
            sums = torch.zeros(len(targets), dtype=torch.float64)
            sums.index_add_(0, wanted.nonzero()[:, 0].cpu(), -logprobs)
            found.append(torch.stack([sums, wanted.sum(dim=1).cpu().double()], dim=1))
    return torch.cat(found)
