"""The head on chosen tokens only, in chunks: the logits of a whole batch are never there at once."""

import dataclasses
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput

from depthprune.model.anatomy import decoder, unwrap
from depthprune.model.skip import computing

# Logits at a time; in float32 64 MB.
_CHUNK_LOGITS = 2**24
IGNORED = -100


def next_tokens(batch: dict[str, Tensor]) -> Tensor:
    """The token to predict at each position, [B, T]; −100 where there is none: on padding, at the end."""
    real = batch["attention_mask"].bool()
    targets = batch.get("labels", batch["input_ids"]).where(real, IGNORED)
    return F.pad(targets[:, 1:], (0, 1), value=IGNORED)


def chunk_rows(model: nn.Module) -> int:
    """How many tokens' logits are there at a time."""
    return max(1, _CHUNK_LOGITS // unwrap(model).get_output_embeddings().weight.shape[0])


def chunked_logits(model: nn.Module, output: ModelOutput, hidden: Tensor) -> Iterator[tuple[int, Tensor]]:
    """(the first row, logits [n, V] in float32) of consecutive rows of `hidden` [N, d].

    Args:
        output: what the model's decoder returned, of which `hidden` are some `last_hidden_state`.
    """
    first = 0
    for states in hidden.split(chunk_rows(model)):
        yield first, logits_of(model, output, states).float()
        first += len(states)


def token_logprobs(
    model: nn.Module, output: ModelOutput, hidden: Tensor, rows: Tensor, targets: Tensor
) -> Tensor:
    """log p(targets[k]) in nats behind hidden[rows[k]], for each k: float32 [K] on the CPU.

    Args:
        output: what the model's decoder returned.
        hidden: [N, d], some of its `last_hidden_state`; each row's logits are computed once.
    """
    found = torch.empty(len(rows))
    for first, logits in chunked_logits(model, output, hidden):
        here = ((rows >= first) & (rows < first + len(logits))).nonzero()[:, 0]
        logprobs = logits.log_softmax(-1)
        places, tokens = (values[here].to(logits.device) for values in (rows - first, targets))
        found[here] = logprobs[places, tokens].cpu()
    return found


def summed_loss(model: nn.Module, output: ModelOutput, targets: Tensor) -> float:
    """Σ −log p(target) in nats over all positions that have a target.

    Args:
        output: what the model's decoder returned for the batch, with `last_hidden_state` [B, T, d].
        targets: [B, T], as `next_tokens` gives them.
    """
    hidden = output["last_hidden_state"]
    targets = targets.to(hidden.device)
    wanted = targets != IGNORED
    hidden, targets = hidden[wanted], targets[wanted]
    total = torch.zeros((), dtype=torch.float64)
    for first, logits in chunked_logits(model, output, hidden):
        tokens = targets[first : first + len(logits)].to(logits.device)
        total += F.cross_entropy(logits, tokens, reduction="sum").cpu()
    return float(total)


@torch.enable_grad()
def backward_sample_losses(model: nn.Module, batch: dict[str, Tensor]) -> None:
    """A forward and a backward pass of Σ_s mean_τ CE, each sample's own mean over its target tokens.

    The mean over the whole batch would weigh a sample by its length. The weights of the head get no gradient.
    """
    device = unwrap(model).device
    inputs = {key: batch[key].to(device) for key in ("input_ids", "attention_mask")}
    backward_from(model, decoder(model)(**inputs, use_cache=False), batch)


@torch.enable_grad()
def backward_from(model: nn.Module, output: ModelOutput, batch: dict[str, Tensor]) -> None:
    """The backward pass of `backward_sample_losses`, through what the decoder returned for the batch."""
    hidden = output["last_hidden_state"]
    targets = next_tokens(batch).to(hidden.device)
    wanted = targets != IGNORED
    weights = (wanted / wanted.sum(dim=1, keepdim=True).clamp(min=1))[wanted]
    gradient = torch.zeros_like(hidden)
    gradient[wanted] = _hidden_gradient(model, output, hidden.detach()[wanted], targets[wanted], weights)
    hidden.backward(gradient)


def _hidden_gradient(
    model: nn.Module, output: ModelOutput, hidden: Tensor, targets: Tensor, weights: Tensor
) -> Tensor:
    """∂ Σ_k weights[k] · CE_k / ∂ hidden, [N, d].

    ∂CE/∂logits = softmax − one-hot is formed by hand: autograd would hold the logits two more times.
    """
    found = torch.empty_like(hidden)
    size = chunk_rows(model)
    for first in range(0, len(hidden), size):
        chunk = slice(first, first + size)
        states = hidden[chunk].requires_grad_()
        logits = logits_of(model, output, states)
        tokens, scale = targets[chunk].to(logits.device), weights[chunk].to(logits.device)[:, None]
        gradient = logits.detach().softmax(dim=-1, dtype=torch.float32).mul_(scale)
        gradient.scatter_add_(1, tokens[:, None], -scale)
        found[chunk] = torch.autograd.grad(logits, states, gradient.to(logits.dtype))[0]
    return found


def logits_of(model: nn.Module, output: ModelOutput, hidden: Tensor) -> Tensor:
    """[N, V] of hidden states [N, d], by the model's own forward: it may scale or cap its logits."""
    inner = unwrap(model)
    replaced = dataclasses.replace(output, last_hidden_state=hidden[None])  # type: ignore[type-var]
    unread = torch.zeros(1, len(hidden), dtype=torch.long, device=inner.device)
    with computing(decoder(model), lambda *args, **kwargs: replaced):
        return inner(input_ids=unread, use_cache=False).logits[0]
