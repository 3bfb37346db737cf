"""The gate: what every saved model passes.

A folder passes when its files are whole, reloading it leaves no tensor missing and none over, its logits are
finite, those computed with the KV cache are those computed without, and `generate` runs.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from depthprune.data.vocabulary import refuse_tokens_beyond
from depthprune.errors import UserError, disk_fault
from depthprune.model.anatomy import decoder_layers, is_peft, unwrap
from depthprune.model.base_config import part_of
from depthprune.model.damage import damage
from depthprune.model.depth_config import sub_configs, text_config
from depthprune.model.faults import buffer_fault, logits_fault, running_fault, tensor_fault, tying_fault
from depthprune.model.fits import dtype_fault
from depthprune.model.loading import (
    explained,
    has_tokenizer,
    load_tokenizer,
    load_with_report,
    one_line,
)
from depthprune.model.model_types import is_generative
from depthprune.model.offloaded import load_offloaded, shelf_of
from depthprune.model.published import planned_depth, publishing_fault
from depthprune.model.quantised import quantisation
from depthprune.model.saving import Base, read_base, write_as_base, write_for_engines
from depthprune.model.shard_writing import Piece
from depthprune.model.shards import read_shards, same_bytes
from depthprune.model.staging import staged

OFFLOADED_SHARD = "1GB"


class GateError(RuntimeError):
    """A model that we made does not survive saving; it is not saved. A fault of ours, not of the user's."""


def verify(folder: str | Path, trust_remote_code: bool = False) -> None:
    """Checks a saved model, and where it is a run folder, that it is the model that the run says it is.

    Needs memory for one copy of the model. Raises UserError with the reason in one line.
    """
    folder = Path(folder)
    if fault := publishing_fault(folder):
        raise UserError(f"{folder}: {fault}")
    model, unused = load_with_report(folder, trust_remote_code=trust_remote_code)
    if unused:
        raise UserError(f"{folder}: {unused[0]} is unexpected in its weights (and {len(unused) - 1} more)")
    quantised = quantisation(model.config, folder) is not None
    if fault := damage(model) or (None if quantised else dtype_fault(model, read_shards(folder))):
        raise UserError(f"{folder}: {fault}")
    with explained(str(folder)), _own_random_state():
        if fault := running_fault(model):
            raise UserError(f"{folder}: {fault}")
    if has_tokenizer(folder):
        embedding: Any = model.get_input_embeddings()
        rows = embedding.weight.shape[0]
        refuse_tokens_beyond(load_tokenizer(folder, trust_remote_code), rows, str(folder))
    kept, found = planned_depth(folder), len(decoder_layers(model))
    if kept not in (None, found):
        raise UserError(f"{folder} has {found} layers, and {folder / 'depthprune/plan.json'} keeps {kept}")


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
    kind = inner.config.model_type
    if not (is_generative(kind) or getattr(inner.config, "auto_map", None)):
        raise UserError(
            f"transformers' auto classes load no {kind}: prune the whole model that it is a part of"
        )
    with staged(folder) as saved, _as_when_used(inner):
        if fault := _saving_fault(inner, tokenizer, saved, base):
            raise GateError(f"{inner.config.model_type} does not survive saving: {fault}")


def check_copied(folder: Path, pieces: Sequence[Piece], meant: PreTrainedModel) -> None:
    """Checks a checkpoint that was made of these stored tensors; raises GateError with the reason.

    Args:
        meant: the model with its layers removed in memory. Its weights may be those of before a repair: they
            are not looked at. On a CPU they stay in the files, as those of the reloaded copy do.
    """
    try:
        fault = _copying_fault(folder, pieces, meant)
    except Exception as error:  # as in `_saving_fault`
        if disk_fault(error):
            raise
        fault = one_line(error)
    if fault is not None:
        raise GateError(f"{meant.config.model_type} does not survive saving: {fault}")


def _copying_fault(folder: Path, pieces: Sequence[Piece], meant: PreTrainedModel) -> str | None:
    found = {name: shard.place(name) for shard in read_shards(folder) for name in shard.tensors}
    for piece in pieces:
        if not same_bytes(found[piece.name], piece.place):
            return f"{piece.name} is not what it was"
    reloaded, fault = _reloaded(folder, meant)
    with _own_random_state():
        return (
            fault
            or tying_fault(reloaded)
            or logits_fault(meant, reloaded)
            or buffer_fault(meant, reloaded)
            or running_fault(reloaded)
        )


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
        if tokenizer is not None:
            tokenizer.save_pretrained(saved)
        if base is not None:
            write_as_base(model, base, saved)
        else:
            write_for_engines(model, saved)
        reloaded, fault = _reloaded(saved, model)
        return (
            fault
            or tensor_fault(model, reloaded)
            or logits_fault(model, reloaded)
            or buffer_fault(model, reloaded)  # behind a pass of both: some families set theirs by the length
            or running_fault(reloaded)
        )
    except Exception as error:  # whatever a broken model or its config raises, it is not to be saved
        if disk_fault(error):
            raise
        return one_line(error)


def _attentions(config: PretrainedConfig) -> dict[str, str]:
    """How each part of a model computes its attention, as `from_pretrained` takes it; "" is the outer one."""
    return {name: part._attn_implementation for name, part in {"": config, **sub_configs(config)}.items()}


def _reloaded(folder: Path, model: PreTrainedModel) -> tuple[PreTrainedModel, str | None]:
    """What was saved of `model`, on the same device, and what is wrong with how it loads."""
    code = bool(getattr(model.config, "auto_map", None))
    options: Any = {"trust_remote_code": code, "attn_implementation": _attentions(model.config)}
    options["device"] = model.device
    if (shelf := shelf_of(model)) is None:
        reloaded, unused = load_with_report(folder, **options)
    else:
        reloaded, unused = load_offloaded(folder, "disk", scratch=shelf.scratch, **options)
    if unused:
        return reloaded, f"{unused[0]} is unexpected on reload"
    if reloaded.dtype != model.dtype:
        return reloaded, f"its dtype is {reloaded.dtype} on reload instead of {model.dtype}"
    if has_tokenizer(folder):
        load_tokenizer(folder, code)
    return reloaded, None


def _save(model: PreTrainedModel, folder: Path) -> None:
    """`save_pretrained`, with the generation config just as it is.

    transformers refuses to write one that was changed and has sampling settings without do_sample. Published
    models have such settings, and training changes token ids.
    """
    own = model.generation_config
    try:
        model.generation_config = GenerationConfig()
        # Of what is offloaded a file's tensors are read before it is written.
        options: Any = {} if shelf_of(model) is None else {"max_shard_size": OFFLOADED_SHARD}
        model.save_pretrained(folder, **options)
    finally:
        model.generation_config = own
    own.to_json_file(folder / "generation_config.json", use_diff=True)
