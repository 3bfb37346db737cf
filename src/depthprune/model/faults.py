"""What can be wrong with a model that was saved: each fault in words, or None."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import GenerationConfig, PreTrainedModel

from depthprune.model.base_config import untied
from depthprune.model.depth_config import text_config
from depthprune.model.offloaded import Values

PROMPT, NEW_TOKENS = 8, 6
SPREAD = 4.0
"""How much further apart than two passes of one model its reload may lie; two passes are mostly bit-equal."""
ROUNDING = 2e-2
"""How far bfloat16 weights may move the logits, relatively, that a family keeps in float32."""


def tying_fault(model: PreTrainedModel) -> str | None:
    """Whether weights that the config says to be one tensor are: loaders keep only one of them.

    Head and embedding may differ: the saved config says so.
    """
    weights = model.state_dict()
    head: Any = model.get_output_embeddings()
    said = [name for name, weight in model.named_parameters() if untied(model) and weight is head.weight]
    for name, source in model.all_tied_weights_keys.items():
        if name in said:
            continue
        if name not in weights or source not in weights or weights[name].is_meta:
            continue
        if not torch.equal(weights[name], weights[source]):
            return f"its config ties {name} to {source}, and they differ"
    return None


def tensor_fault(model: nn.Module, reloaded: nn.Module) -> str | None:
    """Compares all parameters and buffers that are saved, bit for bit."""
    meant, found = Values(model), Values(reloaded)
    if names := sorted(meant.keys() ^ found.keys()):
        return f"{names[0]} is only in {'memory' if names[0] in meant else 'the files'}"
    for name, tensor in meant.items():
        # Some families load a few tensors in fp32 whatever the rest is in: wider is the same value.
        again = found[name]
        wider = torch.promote_types(tensor.dtype, again.dtype) == again.dtype
        if not wider or not torch.equal(tensor.to(again.dtype), again):
            return f"{name} is not what it was"
    return None


def buffer_fault(model: nn.Module, reloaded: nn.Module) -> str | None:
    """Compares the buffers that no file holds, such as rotary frequencies: loading computes them anew.

    Loading may keep one in a narrower dtype, which then is what the family computes with. In memory one that
    was rounded, though the reload's is not, comes of `model.to(dtype)`.
    """
    saved, found = model.state_dict().keys(), dict(reloaded.named_buffers())
    for name, meant in model.named_buffers():
        # Caches that grow with the longest input so far differ in shape.
        if name in saved or name not in found or meant.shape != found[name].shape:
            continue
        if not torch.equal(meant.to(found[name].dtype), found[name]):
            return f"the buffer {name} is not what loading computes; cast with cast_weights, not model.to"
    return None


@torch.inference_mode()
def logits_fault(model: PreTrainedModel, reloaded: PreTrainedModel) -> str | None:
    """Compares the logits of both, of equal weights: only configs, buffers and code could set them apart.

    The reloaded model borrows the very tensors of the other. Read from a file they may be aligned otherwise,
    and kernels then add in another order; borrowed, the logits are bit-equal. What may still differ is what
    differs between two passes of one model (kernels with atomic additions), and a tensor that only the
    reload has in float32.
    """
    # Parameters as such: torch's matmul takes another path for tensors that need no gradient.
    probe, weights = _probe(model), model.state_dict(keep_vars=True)
    meant, again = (model(probe, use_cache=False).logits for _ in range(2))
    own, offloaded = reloaded.state_dict(), Values(reloaded).offloaded
    same = {name: tensor for name, tensor in weights.items() if tensor.dtype == own[name].dtype}
    exact = len(same) == len(weights)
    # Offloaded ones are aligned alike: both models copy them.
    lent = {name: tensor for name, tensor in same.items() if name not in offloaded}
    found = functional_call(reloaded, lent, (probe,), {"use_cache": False}, tie_weights=False).logits
    allowed = SPREAD * _distance(again, meant, exact=True)
    if not exact:
        allowed = max(allowed, ROUNDING)
    if (apart := _distance(found, meant, exact)) > allowed:
        return f"its logits differ on reload by {apart:.1e} relative"
    return None


@torch.inference_mode()
def running_fault(model: PreTrainedModel) -> str | None:
    """Generates greedily with the KV cache, and computes the same positions' logits again without it."""
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
        use_cache=True,
        output_logits=True,
        return_dict_in_generate=True,
        pad_token_id=0,
        suppress_tokens=_padding(model) or None,
    )
    probe = _probe(model)
    mask = torch.ones_like(probe)
    generated = model.generate(probe, generation_config=settings, attention_mask=mask)  # type: ignore[operator]
    cached = torch.stack(generated.logits, dim=1)
    uncached = model(generated.sequences, use_cache=False).logits[:, probe.shape[1] - 1 : -1]
    if not (cached.isfinite().all() and uncached.isfinite().all()):
        return "its logits are not finite"
    exact = _is_exact(model)
    if (apart := _distance(cached, uncached, exact)) > (1e-3 if exact else 0.1):
        return f"its logits with the KV cache differ from those without by {apart:.1e} relative"
    return None


def _probe(model: PreTrainedModel) -> Tensor:
    """Two rows of random token ids [2, T], T ≤ 8 and short enough for the model's context."""
    text = text_config(model.config)
    context = getattr(text, "max_position_embeddings", None) or PROMPT + NEW_TOKENS
    length = max(1, min(PROMPT, context - NEW_TOKENS))
    ids = torch.randint(0, text.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    for padding in _padding(model):
        ids = ids.where(ids != padding, (padding + 1) % text.vocab_size)
    return ids.to(model.device)


def _padding(model: PreTrainedModel) -> list[int]:
    """The token that is none: some families do not count it when they number positions without a cache."""
    text = text_config(model.config)
    padding = getattr(text, "pad_token_id", None)
    return [padding] if isinstance(padding, int) and 0 <= padding < text.vocab_size else []


def _is_exact(model: PreTrainedModel) -> bool:
    """Whether the model computes in fp32 or better."""
    if model.device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32:
        return False
    return all(p.dtype in (torch.float32, torch.float64) for p in model.parameters() if p.is_floating_point())


def _distance(logits: Tensor, reference: Tensor, exact: bool) -> float:
    """The relative distance of two logits [B, T, V]: the worst position's if exact, else the median one's.

    Half precision may flip a mixture's choice of experts at a position where two are nearly equal.
    """
    logits, reference = logits.float(), reference.float()
    apart = (logits - reference).norm(dim=-1) / reference.norm(dim=-1).clamp_min(1e-12)
    return (apart.max() if exact else apart.median()).item()
