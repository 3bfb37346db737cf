"""Which of transformers' model types can be pruned, and which class loads a checkpoint of one."""

from pathlib import Path

from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from depthprune.errors import UserError
from depthprune.model.depth_config import text_config

# Multimodal types of which only the language model runs: transformers 5.24 asks Llama 4 for images always.
TEXT_ALONE = ("llama4",)
# Types that do not run on text alone, or not without the model that they write drafts for.
NEEDS_IMAGES = ("blip", "blip-2", "idefics", "instructblip", "instructblipvideo", "kosmos-2")
NEEDS_ANOTHER = ("gemma4_assistant", "gemma4_unified_assistant")


def auto_class(config: PretrainedConfig) -> type[AutoModelForCausalLM] | type[AutoModelForImageTextToText]:
    """What loads all of a checkpoint: `AutoModelForCausalLM` may leave a multimodal one's towers behind."""
    kind = config.model_type
    whole = kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES and kind not in TEXT_ALONE
    return AutoModelForImageTextToText if whole else AutoModelForCausalLM


def is_generative(model_type: str) -> bool:
    """Whether transformers has a class for it that generates text, from text alone or from images too."""
    known = (MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    return any(model_type in names for names in known)


def check_decoder_only(path_or_id: str | Path, config: PretrainedConfig) -> None:
    """Raises UserError for all but decoder-only language models, of which multimodal ones may have one."""
    kind, decoder = config.model_type, getattr(config, "is_decoder", False)
    text = text_config(config)
    # transformers counts a language model that hears (text is a part of it) among these too.
    seq2seq = kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and not decoder and text is config
    if config.is_encoder_decoder or seq2seq:
        raise UserError(
            f"{path_or_id} is an encoder-decoder (seq2seq) model, {kind}: only decoder-only models work"
        )
    if text.is_encoder_decoder:
        raise UserError(
            f"{path_or_id} has an encoder-decoder (seq2seq) language model, {text.model_type}: "
            "only decoder-only models work"
        )
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not decoder:
        raise UserError(f"{path_or_id} is an encoder, {kind}: only decoder-only language models work")
    if kind in NEEDS_IMAGES:
        raise UserError(
            f"{path_or_id} does not run without an image, {kind}: only models that read text work"
        )
    if kind in NEEDS_ANOTHER:
        raise UserError(
            f"{path_or_id} writes drafts for another model, {kind}, and does not run alone: prune that"
        )
    remote = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if not (is_generative(kind) or remote):
        raise UserError(f"{path_or_id} is no language model that transformers generates with: {kind}")
