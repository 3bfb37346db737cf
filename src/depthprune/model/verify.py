"""The gate: what every saved model passes.

A folder passes when its files are whole, reloading it leaves no tensor missing and none over, its logits are
finite, those computed with the KV cache are those computed without, and `generate` runs.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from depthprune.data.vocabulary import refuse_tokens_beyond
from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers, is_peft, unwrap
from depthprune.model.base_config import part_of, untied
from depthprune.model.depth_config import text_config
from depthprune.model.loading import explained, has_tokenizer, load_tokenizer, load_with_report, one_line
from depthprune.model.saving import Base, read_base, write_as_base, write_for_engines

PROMPT, NEW_TOKENS = 8, 6
SPREAD = 4.0
"""How much further apart than two passes of one model its reload may lie; two passes are mostly bit-equal."""
ROUNDING = 2e-2
"""How far bfloat16 weights may move the logits, relatively, that a family keeps in float32."""


class GateError(RuntimeError):
    """A model that we made does not survive saving; it is not saved. A fault of ours, not of the user's."""


def verify(folder: str | Path, trust_remote_code: bool = False) -> None:
    """Checks a saved model, and where it is a run folder, that it has the layers that plan.json keeps.

    Needs memory for one copy of the model. Raises UserError with the reason in one line.
    """
    folder = Path(folder)
    model, unused = load_with_report(folder, trust_remote_code=trust_remote_code)
    if unused:
        raise UserError(f"{folder}: {unused[0]} is unexpected in its weights (and {len(unused) - 1} more)")
    with explained(str(folder)), _own_random_state():
        if fault := running_fault(model):
            raise UserError(f"{folder}: {fault}")
    if has_tokenizer(folder):
        embedding: Any = model.get_input_embeddings()
        rows = embedding.weight.shape[0]
        refuse_tokens_beyond(load_tokenizer(folder, trust_remote_code), rows, str(folder))
    plan = folder / "depthprune" / "plan.json"
    if plan.is_file():
        kept = json.loads(plan.read_text())["kept"]
        if len(kept) != len(decoder_layers(model)):
            raise UserError(f"{folder} has {len(decoder_layers(model))} layers, and {plan} keeps {len(kept)}")


def save_pruned(model: nn.Module, folder: str | Path, base: str | Path | None = None) -> None:
    """Saves a model that was made from another, as that one is written; the gate checks it before.

    config.json is the base's own, word for word but for what the model says otherwise (layers, dtype,
    vocabulary, untied embeddings); token ids are the base's. Tokenizer, generation config and all other files
    but weights, card and hidden ones are copied.

    Args:
        folder: may exist; weights and files of an earlier save are replaced.
        base: the folder or hub id that the model was made from; by default where it was loaded from.

    Raises UserError where there is no such base, and GateError, with nothing written, where a reloaded copy
    is not equal to the model: every tensor bit for bit, and the logits.
    """
    inner = unwrap(model)
    base = base or inner.config.name_or_path
    if not base:
        raise UserError("the model was not loaded from anywhere: name the base that it was made from")
    code = bool(getattr(inner.config, "auto_map", None))
    found = read_base(base, trust_remote_code=code)
    part_of(found.config, inner.config)
    save_verified(model, None, folder, found)


def save_verified(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: str | Path,
    base: Base | None = None,
) -> None:
    """Saves the model into `folder` once a reloaded copy has been found equal to it.

    Equal means: every tensor bit for bit, and the logits. The copy lies on the same device: two in memory.
    `folder` may hold other files; weights of an earlier save are replaced. With a base, config.json and all
    other files are the base's; without one the saved config has use_cache on, and `tokenizer` is saved.
    Raises GateError with the reason, and then writes nothing.
    """
    folder = Path(folder).resolve()
    inner = unwrap(model)
    if is_peft(model) or any(".lora_" in name for name, _ in model.named_parameters()):
        raise GateError("the model still has adapters: merge them before saving")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as staging:
        saved = Path(staging) / "model"
        with _as_when_used(inner):
            if fault := _saving_fault(inner, tokenizer, saved, base):
                raise GateError(f"{inner.config.model_type} does not survive saving: {fault}")
        _move(saved, folder)


@contextmanager
def _as_when_used(model: PreTrainedModel) -> Iterator[None]:
    """The model in eval mode, with its KV cache on; both, and the random state, are as before afterwards."""
    training = [module for module in model.modules() if module.training]
    configs = [
        config for config in (model.config, text_config(model.config), model.generation_config) if config
    ]
    caches = [(config, config.use_cache) for config in configs if "use_cache" in vars(config)]
    with _own_random_state():
        model.eval()
        for config, _ in caches:
            config.use_cache = True
        try:
            yield
        finally:
            for module in training:
                module.training = True
            for config, use_cache in caches:
                config.use_cache = use_cache


def _own_random_state() -> AbstractContextManager[None]:
    return torch.random.fork_rng(devices=range(torch.cuda.device_count()))


def _saving_fault(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, saved: Path, base: Base | None
) -> str | None:
    """Saves the model; what is then wrong with it, in memory or on disk, or None if nothing is."""
    try:
        if fault := tying_fault(model) or running_fault(model):
            return fault
        _save(model, saved)
        code = bool(getattr(model.config, "auto_map", None))
        if tokenizer is not None:
            tokenizer.save_pretrained(saved)
        if base is not None:
            write_as_base(model, base, saved)
            if has_tokenizer(saved):
                load_tokenizer(saved, code)
        else:
            write_for_engines(model, saved)
        reloaded, unused = load_with_report(
            saved,
            device=model.device,
            trust_remote_code=code,
            attn_implementation=model.config._attn_implementation,
        )
        if unused:
            return f"{unused[0]} is unexpected on reload"
        if reloaded.dtype != model.dtype:
            return f"its dtype is {reloaded.dtype} on reload instead of {model.dtype}"
        return (
            tensor_fault(model, reloaded)
            or logits_fault(model, reloaded)
            or buffer_fault(model, reloaded)  # behind a pass of both: some families set theirs by the length
            or running_fault(reloaded)
        )
    except Exception as error:  # whatever a broken model or its config raises, it is not to be saved
        return one_line(error)


def _save(model: PreTrainedModel, folder: Path) -> None:
    """`save_pretrained`, with the generation config just as it is.

    transformers refuses to write one that was changed and has sampling settings without do_sample. Published
    models have such settings, and training changes token ids.
    """
    own = model.generation_config
    try:
        model.generation_config = GenerationConfig()
        model.save_pretrained(folder)
    finally:
        model.generation_config = own
    own.to_json_file(folder / "generation_config.json", use_diff=True)


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
        if name in weights and source in weights and not torch.equal(weights[name], weights[source]):
            return f"its config ties {name} to {source}, and they differ"
    return None


def tensor_fault(model: nn.Module, reloaded: nn.Module) -> str | None:
    """Compares all parameters and buffers that are saved, bit for bit."""
    meant, found = model.state_dict(), reloaded.state_dict()
    if names := sorted(meant.keys() ^ found.keys()):
        return f"{names[0]} is only in {'memory' if names[0] in meant else 'the files'}"
    for name, tensor in meant.items():
        # Some families load a few tensors in fp32 whatever the rest is in: wider is the same value.
        wider = torch.promote_types(tensor.dtype, found[name].dtype) == found[name].dtype
        if not wider or not torch.equal(tensor.to(found[name].dtype), found[name]):
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
    probe, weights = _probe(model), model.state_dict()
    meant, again = (model(probe, use_cache=False).logits for _ in range(2))
    own = reloaded.state_dict()
    same = {name: tensor for name, tensor in weights.items() if tensor.dtype == own[name].dtype}
    found = functional_call(reloaded, same, (probe,), {"use_cache": False}, tie_weights=False).logits
    allowed = SPREAD * _distance(again, meant, exact=True)
    if len(same) < len(weights):
        allowed = max(allowed, ROUNDING)
    if (apart := _distance(found, meant, exact=len(same) == len(weights))) > allowed:
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
    return ids.to(model.device)


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


def _move(saved: Path, folder: Path) -> None:
    """Puts the saved files into the folder; weights that an earlier save left there go."""
    if not folder.exists():
        saved.replace(folder)
        return
    for stale in folder.glob("model*.safetensors*"):
        stale.unlink()
    for file in saved.iterdir():
        if file.is_dir():
            shutil.rmtree(folder / file.name, ignore_errors=True)
        file.replace(folder / file.name)
