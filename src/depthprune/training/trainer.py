"""Training on TRL's SFTTrainer, and what TRL does to a model taken back."""

import copy
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, set_seed

from depthprune.distributed.processes import count, is_first
from depthprune.distributed.rows import share_of
from depthprune.distributed.sharded import (
    fsdp_computes_anew,
    lies_in_shards,
    put_weights,
    reduce_exactly,
    trained_weights,
    whole,
)
from depthprune.errors import UserError
from depthprune.model.anatomy import layers_path
from depthprune.settings import LoraSettings, TrainerSettings
from depthprune.training.base import FineTuning, Start, uses_bf16
from depthprune.training.checkpoints import Manifests, newest_checkpoint
from depthprune.training.lora import lora_config
from depthprune.training.rows_at_once import fit_rows
from depthprune.training.time_left import TimeLeft
from depthprune.training.trained import trained_tensors

if TYPE_CHECKING:  # trl takes seconds to import, and only a run that trains needs it
    from datasets import Dataset
    from trl import SFTTrainer

    from depthprune.training.teacher import TeacherCache

log = logging.getLogger("depthprune")


def sft_trainer(
    model: Any,
    tokenizer: Any,
    dataset: "Dataset",
    settings: TrainerSettings,
    folder: Path,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
    teacher: "TeacherCache | None" = None,
) -> "SFTTrainer":
    """An SFTTrainer over tokenised rows: `input_ids`, and `completion_mask` where there is a completion.

    With `LoraSettings` the model gets float32 adapters, which alone train. A `teacher` over the same rows
    makes it a distillation. TRL changes the model's config and `forward`: wrap the training in `untouched`.
    """
    from depthprune.training.shared import SharedTrainer

    if not hasattr(model, model.base_model_prefix):  # Llama 4's text model, whose backbone TRL looks up by it
        model.base_model_prefix = layers_path(model).split(".")[0]
    options: dict[str, Any] = {
        "model": model,
        "args": _trainer_arguments(
            model, settings, folder, seed, "completion_mask" in dataset.column_names, teacher is not None
        ),
        "train_dataset": dataset,
        # TRL sets a pad token on it; the saved one stays as it was
        "processing_class": copy.deepcopy(tokenizer),
        "peft_config": lora_config(model, settings) if isinstance(settings, LoraSettings) else None,
        "callbacks": [*callbacks, Manifests()],
    }
    trainer: Any = SharedTrainer(**options) if teacher is None else _distilling(teacher, options)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:  # TRL casts adapters on a quantised base to bfloat16
            parameter.data = parameter.data.float()
    if trainer.is_fsdp_enabled:
        reduce_exactly(trainer.accelerator.state.fsdp_plugin)
    trainer.remove_callback(PrinterCallback)
    longest = max(map(len, dataset["input_ids"]))
    trainer.rows = fit_rows(trainer, longest, _checkpointing(settings))
    return trainer


def _distilling(teacher: "TeacherCache", options: dict[str, Any]) -> "SFTTrainer":
    from depthprune.training.distill import DistillTrainer

    return DistillTrainer(**options, teacher=teacher)


def _trainer_arguments(
    model: Any, settings: TrainerSettings, folder: Path, seed: int, masked: bool, taught: bool
) -> Any:
    from trl import SFTConfig

    accelerated = torch.accelerator.is_available()
    fine_tuning = settings if isinstance(settings, FineTuning) else None
    common = TrainerSettings.model_fields.keys() - {"max_length", "gradient_checkpointing", "bf16"}
    checkpointing = _checkpointing(settings)
    rows, passes = share_of(settings, count())
    balanced = hasattr(model.config.get_text_config(), "num_experts")
    arguments = SFTConfig(
        output_dir=str(folder),
        **settings.model_dump(include=set(common))
        | {"per_device_train_batch_size": rows, "gradient_accumulation_steps": passes},
        max_length=None,  # the rows come truncated, and a row that would vanish has been reported
        completion_only_loss=masked,
        router_aux_loss_coef=None if balanced else 0.0,  # TRL's balancing loss reads `num_experts`
        bf16=uses_bf16(settings),
        gradient_checkpointing=accelerated if checkpointing is None else checkpointing,
        use_cpu=not accelerated,
        dataloader_pin_memory=accelerated,
        seed=seed,
        report_to=fine_tuning.report_to if fine_tuning else "none",
        include_num_input_tokens_seen="non_padding",  # TRL's own count begins anew after a resume
        logging_steps=fine_tuning.logging_steps if fine_tuning else 1,
        save_strategy="steps" if fine_tuning else "no",
        save_steps=fine_tuning.save_steps if fine_tuning else 500,
        save_total_limit=2,  # one behind, should the newest be torn
        disable_tqdm=not sys.stderr.isatty(),
        ddp_find_unused_parameters=False,
        remove_unused_columns=not taught,  # the rows' numbers, by which the teacher's predictions are found
    )
    arguments.mixed_precision = "bf16" if arguments.bf16 else "no"  # whatever a launcher's config says
    return arguments


def _checkpointing(settings: TrainerSettings) -> bool | None:
    """Whether activations are computed anew, None where that is open: once is enough, should FSDP do it."""
    return False if fsdp_computes_anew() else settings.gradient_checkpointing


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Takes back what TRL does to a model: token ids and flags in its configs, a patched `forward`."""
    config, generation = copy.deepcopy(model.config.__dict__), copy.deepcopy(model.generation_config.__dict__)
    yield
    for live, saved in ((model.config.__dict__, config), (model.generation_config.__dict__, generation)):
        live.clear()
        live.update(saved)
    for patched in ("forward", "_original_forward", "base_model_prefix"):
        vars(model).pop(patched, None)
    model.gradient_checkpointing_disable()


def fine_tune(
    start: Start,
    tokenizer: Any,
    dataset: "Dataset",
    settings: FineTuning,
    folder: Path,
    seed: int,
    callbacks: Sequence[TrainerCallback] = (),
    teacher: "TeacherCache | None" = None,
) -> tuple[PreTrainedModel | None, dict[str, Any]]:
    """Trains the checkpoint `start`; a plain model in eval mode, adapters merged, and its `trained_tensors`.

    `folder` is the Trainer's own. A call that was killed goes on from its newest whole checkpoint there, with
    the same result as if it had not been. Of several processes only the first gets the model.
    """
    assert (settings.loss == "distill") == (teacher is not None)
    model: Any = settings.load(start)
    settings.choose_trained(model)
    with untouched(model):
        told = [*callbacks, TimeLeft("training")]
        trainer: Any = sft_trainer(model, tokenizer, dataset, settings, folder, seed, told, teacher)
        trains = trained_tensors(trainer.model)
        log.info("trains %s", _said(trains))
        trains |= trainer.rows
        checkpoint = newest_checkpoint(folder)
        if checkpoint is not None:
            log.info("training goes on from %s", checkpoint.name)
        set_seed(seed)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trained = trainer.accelerator.unwrap_model(trainer.model)
        if not all(whole(parameter.isfinite()).all() for parameter in trained.parameters()):
            raise UserError(
                f"training ended with weights that are not finite: lower training.learning_rate "
                f"({settings.learning_rate:g})"
            )
        if lies_in_shards(trained):
            trained = _in_one_piece(trained, settings, start)
        plain = settings.plain(trained, start).requires_grad_(True).eval() if is_first() else None
    return plain, trains


def _in_one_piece(sharded: Any, settings: FineTuning, start: Start) -> Any:
    """The model as training would have left it without shards, in the first process; None in the others."""
    weights = trained_weights(sharded)
    if not is_first():
        return None
    from peft import get_peft_model

    model: Any = settings.load(start)
    settings.choose_trained(model)
    if isinstance(settings, LoraSettings):
        model = get_peft_model(model, lora_config(model, settings))
    put_weights(model, weights)
    return model


def _said(trains: dict[str, Any]) -> str:
    millions = f"{trains['trained'] / 1e6:.3g} M of {trains['parameters'] / 1e6:.3g} M parameters"
    return f"{trains['what']}: {millions}"
