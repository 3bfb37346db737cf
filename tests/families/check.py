"""One type × one removal: pruned in memory and on files, saved, reloaded, compared with skipped layers.

The reference knows nothing of configs, indices or caches: it is the whole model, whose removed layers hand on
what they are given, without a cache.
"""

import copy
import re
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from skipping import skip
from small import TEXT_ALONE, auto_class, small_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from depthprune.errors import UserError
from depthprune.model.anatomy import decoder_layers
from depthprune.model.checkpoint import prune_files
from depthprune.model.surgery import remove_layers
from depthprune.model.verify import save_verified, verify

REMOVALS = {"first": [0], "middle": [3], "last": [5], "scattered": [1, 2, 4]}
PROMPT, NEW_TOKENS = 14, 6
VISIBLE = 1e-3
"""How far, relatively, the whole model must lie from one without a layer: else nothing is seen."""
PADDING = [0, 1, 2]
"""The prompt has none of them either: some types number positions by what is no padding."""
PASSES = "passes"


class Fault(Exception):
    """A removal that is neither right nor refused in one line."""


class Unfit(Exception):
    """A model that cannot be checked, whole as it is."""


def check_removals(kind: str, removals: dict[str, list[int]] = REMOVALS) -> dict[str, str]:
    """Of each removal: "passes", or the reason of its refusal. Raises Fault, and Unfit."""
    whole = small_model(kind)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "whole"
        whole.save_pretrained(saved)
        try:
            reload(saved)
        except Exception as error:  # transformers' own, for nothing of ours was at work
            raise Unfit(" ".join(f"saved whole, it does not load again: {error}".split())) from None
        if kind in TEXT_ALONE:
            whole = AutoModelForCausalLM.from_pretrained(saved).eval()
        try:
            fault = generation_fault(whole, whole)
        except Exception as error:  # whatever a model raises that does not generate from text alone
            raise Unfit(" ".join(f"it does not generate: {type(error).__name__}: {error}".split())) from None
        if fault:
            raise Unfit(f"in the whole model the {fault}")
        return {name: check_removal(whole, saved, layers) for name, layers in removals.items()}


def check_removal(whole: PreTrainedModel, saved: Path, layers: list[int], named: bool = False) -> str:
    """ "passes", or the reason of the refusal; removals that a refusal names are checked too."""
    reference = skipping(whole, layers)
    if relative(logits(reference), logits(whole)) < VISIBLE:
        raise Unfit(f"nothing is seen of layers {layers}")
    in_memory, on_files = prune_in_memory(whole, reference, layers), prune_on_files(saved, reference, layers)
    if in_memory == on_files == PASSES:
        return PASSES
    if in_memory == PASSES and "load it to prune it" in on_files:
        return f"{PASSES} in memory; on files: {on_files}"
    if on_files == PASSES and "or prune its files" in in_memory:
        return f"{PASSES} on files; in memory: {in_memory}"
    if PASSES in (in_memory, on_files):
        raise Fault(f"{layers}: in memory {in_memory}, on files {on_files}")
    for other in [] if named else named_removals(in_memory):
        if not (reason := check_removal(whole, saved, other, named=True)).startswith(PASSES):
            raise Fault(f"{layers}: {in_memory}; but {other}: {reason}")
    return in_memory


def named_removals(refusal: str) -> list[list[int]]:
    """The first and the last of the removals that a refusal names."""
    if "no layer of it could go" in refusal:
        return []
    if (named := re.search(r"could go: (.*)$", refusal)) is None:
        raise Fault(f"the refusal names no removal that would work: {refusal}")
    ends = [[int(end) for end in window.split("-")] for window in named[1].split(", ")]
    windows = [list(range(window[0], window[-1] + 1)) for window in ends]
    return windows[:1] + windows[1:][-1:]


def prune_in_memory(whole: PreTrainedModel, reference: PreTrainedModel, layers: list[int]) -> str:
    """Removes the layers, compares, saves through the gate, reloads, compares."""
    model = copy.deepcopy(whole)
    try:
        remove_layers(model, layers)
    except UserError as refusal:
        if not torch.equal(logits(model), logits(whole)):
            raise Fault(f"{layers}: refused, and changed the model: {refusal}") from None
        return reason(refusal)
    compare(model, reference, f"{layers} in memory")
    with tempfile.TemporaryDirectory() as folder:
        save_verified(model, None, folder)
        compare(reload(Path(folder)), reference, f"{layers} in memory, saved")
    return PASSES


def prune_on_files(saved: Path, reference: PreTrainedModel, layers: list[int]) -> str:
    """Prunes the checkpoint, verifies, reloads, compares; all that is no decoder layer is as it was."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "pruned"
        try:
            prune_files(saved, layers, output)
        except UserError as refusal:
            if output.exists():
                raise Fault(f"{layers}: refused, and left files: {refusal}") from None
            return reason(refusal)
        compare(reload(output), reference, f"{layers} on files")
        verify(output)
        check_rest(saved, output, layers)
    return PASSES


def check_rest(saved: Path, output: Path, layers: list[int]) -> None:
    """Raises Fault where a tensor outside the decoder layers is gone or changed."""
    before, after = stored(saved), stored(output)
    changed = {re.sub(r"\d+\..*", "", name, count=1) for name in before.keys() ^ after.keys()}
    if len(changed) != 1:
        raise Fault(f"{layers} on files: other tensors than those of the layers came or went: {changed}")
    for name in before.keys() & after.keys():
        if not any(map(name.startswith, changed)) and not torch.equal(before[name], after[name]):
            raise Fault(f"{layers} on files: {name} is not what it was")


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def reason(refusal: UserError) -> str:
    text = str(refusal)
    if "\n" in text:
        raise Fault(f"a refusal on several lines: {text}")
    return re.sub(r"/tmp/\S+", "MODEL", text)


def reload(folder: Path) -> PreTrainedModel:
    """As anyone would, with nothing of ours."""
    model, report = auto_class(folder).from_pretrained(folder, output_loading_info=True)
    if model.config.model_type.removesuffix("_text") in TEXT_ALONE:
        report["unexpected_keys"] = [name for name in report["unexpected_keys"] if "language_model" in name]
    if wrong := {key: sorted(names)[:3] for key, names in report.items() if names}:
        raise Fault(f"on reload: {wrong}")
    return model.eval()


def compare(model: PreTrainedModel, reference: PreTrainedModel, what: str) -> None:
    """Raises Fault unless the logits are the reference's, without and with the cache."""
    depth, skipped = (
        len(decoder_layers(model)),
        [hasattr(layer, "skips") for layer in decoder_layers(reference)],
    )
    if depth != skipped.count(False):
        raise Fault(f"{what}: {depth} layers instead of {skipped.count(False)}")
    if (apart := relative(logits(model), logits(reference))) > 1e-4:
        raise Fault(f"{what}: the logits differ by {apart:.1e}")
    if fault := generation_fault(model, reference):
        raise Fault(f"{what}: the {fault}")


@torch.no_grad()
def logits(model: nn.Module, ids: Tensor | None = None) -> Tensor:
    """[B, T, V], without a cache."""
    return model(input_ids=prompt() if ids is None else ids, use_cache=False).logits


@torch.no_grad()
def generation_fault(model: PreTrainedModel, reference: PreTrainedModel) -> str | None:
    """Generates greedily with the cache; the reference computes the same positions without one."""
    ids = prompt()
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False, use_cache=True, pad_token_id=0,
        output_logits=True, return_dict_in_generate=True, suppress_tokens=PADDING,
    )  # fmt: skip
    made = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
    cached = torch.stack(made.logits, dim=1)
    expected = logits(reference, made.sequences)[:, PROMPT - 1 : -1]
    if not expected.isfinite().all():
        return "logits are not finite"
    apart = relative(cached, expected)
    return f"logits with the cache differ from those without by {apart:.0e}" if apart > 1e-3 else None


def prompt() -> Tensor:
    return torch.randint(3, 128, (2, PROMPT), generator=torch.Generator().manual_seed(0))


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest distance of a position's logits."""
    apart = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp_min(1e-12)
    return apart.max().item()


def skipping(whole: PreTrainedModel, layers: list[int]) -> PreTrainedModel:
    """A copy whose layers with these numbers hand on what they are given."""
    model = copy.deepcopy(whole)
    for i in layers:
        skip(decoder_layers(model)[i])
    return model
